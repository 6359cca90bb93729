"""The place of a replica in the topics."""

from __future__ import annotations

from typing import Literal, NamedTuple

Partition = tuple[str, int]
"""A topic and the number of one of its partitions."""


ReplicaState = Literal["loading", "consistent"]


class Position(NamedTuple):
    """A place in one partition: the offset to read next, and the greatest lsn applied from the partition."""

    next_offset: int
    lsn: int
