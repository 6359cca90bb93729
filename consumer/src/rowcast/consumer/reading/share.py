"""The partitions of one of several processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rowcast.consumer.events.position import Partition
from rowcast.shared.tables.json_types import has_one_form_of_uuids, is_loosely_typed
from rowcast.shared.tables.shape import INTEGER_TYPES, TableShape

# A value of these types has a single text, and an engine never takes two different values for equal. Deletes and
# inserts of equal keys would need an order.
_EXACT_TYPES = INTEGER_TYPES | {"date"}


def is_divisible(shape: TableShape) -> bool:
    """Return whether the partitions of the table's topic may be read independently, if no key is in two partitions."""
    types = {shape.column(name).type.name for name in shape.primary_key}
    exact = _EXACT_TYPES | {"uuid"} if has_one_form_of_uuids(shape.engine) else _EXACT_TYPES
    return bool(types) and types <= exact and not is_loosely_typed(shape.engine)


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the partitions of the tables' topics.

    ``partitions``: the partitions to read, and no partition that is added later. ``divided``: the number of partitions
    of each topic whose other partitions are read by other processes. ``follows``: read on after the ends, because no
    other reader cuts over. ``counts``: the number of partitions that each topic must keep then. ``known_ms``: the time
    before which the replica knows all deletes, by partition.
    """

    partitions: frozenset[Partition]
    divided: Mapping[str, int]
    follows: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    known_ms: Mapping[Partition, int] = field(default_factory=dict)

    @property
    def topics(self) -> set[str]:
        """Return the topics of the partitions."""
        return {topic for topic, _ in self.partitions}
