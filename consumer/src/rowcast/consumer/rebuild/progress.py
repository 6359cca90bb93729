"""The progress of a rebuild, in records of the tables' topics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from rowcast.consumer.events.position import Partition, Position
from rowcast.shared.errors import RowcastError

Phase = Literal["publishing", "loading", "catching up", "adding indexes", "verifying", "swapping", "done"]


@dataclass(frozen=True, slots=True)
class RebuildProgress:
    """The state of a rebuild.

    ``records`` of ``total`` records are read. ``per_s``: records in a second since the start. ``left_s``: the seconds
    to the end of the topics at the present rate, or None if unknown.
    """

    phase: Phase
    records: int = 0
    total: int = 0
    per_s: int = 0
    left_s: int | None = None


class RebuildStoppedError(RowcastError):
    """The rebuild was stopped before the end. The fresh tables stay."""

    def __init__(self, replica: str) -> None:
        super().__init__(
            f"stopped before the end, and the tables of replica {replica!r} are as before. "
            f"rowcast rebuild {replica} goes on where it was."
        )


OnRebuildProgress = Callable[[RebuildProgress], None]


class ReadRecords:
    """Count the records read by the worker of the fresh tables. The object takes the place of a worker's group."""

    def __init__(self, on_progress: OnRebuildProgress | None) -> None:
        self._on_progress = on_progress
        self._phase: Phase = "loading"
        self._ends: Mapping[Partition, tuple[int, int]] = {}
        self._reached: dict[Partition, int] = {}
        self._began = time.monotonic()
        self._at_begin = 0
        self.progress = RebuildProgress("loading")

    def begin(self, phase: Phase, ends: Mapping[Partition, tuple[int, int]] | None = None) -> None:
        """Begin a phase. ``ends``: the first offset and the end of each partition to be read."""
        self._phase = phase
        if ends is not None:
            self._ends = ends
            self._began, self._at_begin = time.monotonic(), self._records()
        self._report()

    def resume(self, offsets: Mapping[Partition, int]) -> None:
        """Take the next offsets of the fresh tables as they are in the database."""
        self._reached.update(offsets)

    def note_published(self, rows: int) -> None:
        """Take the number of rows that were published again."""
        self.progress = RebuildProgress("publishing", rows)
        if self._on_progress is not None:
            self._on_progress(self.progress)

    def poll(self) -> None:
        """Do nothing, because there is no group."""

    def commit_offsets(self, positions: Mapping[Partition, Position]) -> None:
        """Take the positions of the fresh tables."""
        for partition, position in positions.items():
            self._reached[partition] = position.next_offset
        self._report()

    def close(self) -> None:
        """Do nothing, because there is no group."""

    def _records(self) -> int:
        return sum(
            min(max(self._reached.get(partition, first), first), end) - first
            for partition, (first, end) in self._ends.items()
        )

    def _report(self) -> None:
        records, total = self._records(), sum(end - first for first, end in self._ends.values())
        seconds = time.monotonic() - self._began
        per_s = round((records - self._at_begin) / seconds) if seconds > 0 else 0
        left_s = round((total - records) / per_s) if per_s > 0 else None
        self.progress = RebuildProgress(self._phase, records, total, per_s, left_s)
        if self._on_progress is not None:
            self._on_progress(self.progress)
