"""The tables that a worker writes, and the positions of the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.reading.share import Share
from rowcast.consumer.replica.dialects import TableNaming
from rowcast.consumer.replica.part import Part
from rowcast.consumer.worker.pace import Pace
from rowcast.shared.config.schedule import Schedule


class Membership(Protocol):
    """Hear of the positions of a worker. No method waits."""

    def poll(self) -> None:
        """Handle events. Called regularly."""

    def commit_offsets(self, positions: Mapping[Partition, Position]) -> None:
        """Take positions that have changed."""

    def close(self) -> None:
        """Leave."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The work of one worker.

    ``source``: the value of ``source`` in the worker's tables. ``naming``: the names of the tables to write.
    ``new_membership``: called at the beginning of each turn. ``command``: the command line that runs the worker, for
    messages. ``rebuild_command``: the command line that makes the tables again. ``is_shared``: whether more workers
    stand by. ``until_lsn``: apply no transaction of a greater lsn. ``pace``: how fast the worker applies. ``schedule``:
    when the worker catches up, or None for all the time. ``in_group``: the workers of the replica share its partitions,
    and no worker is alone. ``part``: the part of the worker in a divided load, and
    ``share``: the partitions to read then. None: the worker does everything. ``first_positions``: where to begin
    to read the partitions without a position, if not at their first offsets.
    """

    source: str
    naming: TableNaming
    new_membership: Callable[[], Membership]
    command: str
    rebuild_command: str
    is_shared: bool = True
    until_lsn: int | None = None
    pace: Pace = field(default_factory=Pace)
    schedule: Schedule | None = None
    in_group: bool = False
    part: Part | None = None
    share: Share | None = None
    first_positions: Mapping[Partition, Position] = field(default_factory=dict)
