"""The partitions of one of several processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rowcast.consumer.events.position import Partition


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the partitions of the tables' topics.

    ``partitions``: the partitions to read, and no partition that is added later. ``divided``: the number of partitions
    of each topic whose other partitions are read by other processes.
    """

    partitions: frozenset[Partition]
    divided: Mapping[str, int]

    @property
    def topics(self) -> set[str]:
        """Return the topics of the partitions."""
        return {topic for topic, _ in self.partitions}
