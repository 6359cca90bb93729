"""The messages between a rebuild and the processes of its shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.reading.share import Share
from rowcast.consumer.rebuild.first_pass.target import FreshTarget
from rowcast.consumer.replica.part import Part


@dataclass(frozen=True, slots=True)
class Job:
    """The work of a process. ``source``: the value of ``source`` in the worker's tables for the share.

    ``log_level``: the level of the rebuild's log.
    """

    target: FreshTarget
    source: str
    part: Part
    share: Share
    log_level: int


@dataclass(frozen=True, slots=True)
class Reached:
    """Report positions that were committed in the replica."""

    positions: Mapping[Partition, Position]


@dataclass(frozen=True, slots=True)
class Logged:
    """Hand over a line of the log, for the log of the parent."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Filled:
    """Report that the share has been read to the ends of its partitions, and applied."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Report the error that ends the process. ``traceback``: for an error caused by a mistake in rowcast."""

    error: Exception | None
    traceback: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Report the end of a process. ``code``: the exit code, negative for a signal, or None if unknown."""

    code: int | None


Report = Reached | Logged | Filled | Failed | Ended
