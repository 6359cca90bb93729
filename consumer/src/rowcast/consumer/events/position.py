"""The place of a replica in the topics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Partition = tuple[str, int]
"""A topic and the number of one of its partitions."""


StoredState = Literal["loading", "consistent", "following", "suspect", "promoting", "promoted"]
"""The values of ``rowcast_replica.state``."""


def message_target(partition: Partition, offset: int) -> str:
    """Return the value of ``rowcast worker --skip`` for a message."""
    return f"{partition[0]}:{partition[1]}:{offset}"


ReplicaState = Literal[
    "waiting", "loading", "consistent", "following", "stopped", "suspect", "promoting", "promoted"
]  # fmt: skip
"""The state of a replica as it is shown.

``waiting``: nothing has been applied yet. ``loading``: rows are missing, or come before the rows that they refer to.
``consistent``: the rows are a state that the primary had. ``following``: each row is as the source had it, and not all
rows at the same moment, because the worker applies rows without their transactions. ``stopped``: the worker has ended
with an error. ``suspect``: the rows are not those of the source any more. ``promoting``: `rowcast promote` was
interrupted. ``promoted``: the replica is a primary now.
"""


class Position(NamedTuple):
    """A place in one partition: the offset to read next, and the greatest lsn applied from the partition."""

    next_offset: int
    lsn: int


def are_of_applied_events(positions: Iterable[Position]) -> bool:
    """Return whether an event has been applied. If not, the replica is ``waiting`` everywhere."""
    return any(position.lsn for position in positions)
