"""The notes of the schema topic about the source besides shapes: the timeline, and the tables without all rows."""

from __future__ import annotations

from typing import Literal

from rowcast.consumer.events.rebuild_hint import REBUILD
from rowcast.shared.errors import DataError, SuspectError
from rowcast.shared.strict_form import Name, Number, StrictForm, checked


class ShapeNotes(StrictForm):
    """The members of a shape's message that do not belong to the shape.

    ``timeline``: the source's timeline when the shape was published, and ``timeline_lsn`` the timeline's first lsn.
    ``snapshot``: ``pending`` until Kafka has all rows of the table that existed before the capture or the timeline.
    """

    version: Name | None = None
    timeline: Number = 1
    timeline_lsn: Number = 0
    snapshot: Literal["pending"] | None = None


def parse_notes(value: bytes) -> ShapeNotes:
    """Return the notes of a message of the schema topic. Raise DataError if a member has another form."""
    return checked(ShapeNotes.model_validate_json, value, "not a table's shape", DataError)


class SourceNotes:
    """The latest notes of every table.

    ``timeline``: the source's present timeline, and ``first_lsn`` the timeline's first lsn. Earlier events belong to
    ended timelines.
    """

    def __init__(self) -> None:
        self.timeline = 1
        self.first_lsn = 0
        self._notes: dict[str, ShapeNotes] = {}
        self._offsets: dict[str, int] = {}

    def add(self, table: str, notes: ShapeNotes, offset: int, *, wanted: bool) -> None:
        """Take the notes at an offset of the schema topic, because a part of the topic may be read twice.

        ``wanted``: whether the replica includes the table.
        """
        if notes.timeline > self.timeline:
            self.timeline = notes.timeline
            self.first_lsn = max(self.first_lsn, notes.timeline_lsn)
        if wanted and offset >= self._offsets.get(table, 0):
            self._notes[table], self._offsets[table] = notes, offset

    def is_present(self, table: str) -> bool:
        """Return whether the table exists in the present timeline. A restored primary may lack later tables."""
        notes = self._notes.get(table)
        return notes is None or notes.timeline == self.timeline

    def tables_lacking_rows(self) -> list[str]:
        """Return the tables whose initial snapshot Kafka does not have completely yet."""
        return [t for t, notes in self._notes.items() if notes.snapshot == "pending" and self.is_present(t)]


def other_timeline(replica: int, source: int) -> SuspectError:
    """Return the error about a replica and a source on two timelines."""
    return SuspectError(
        f"the source is on timeline {source}, and the replica on timeline {replica}: the primary was restored from a "
        "backup, or Kafka has lost events. The replica may have rows that the primary does not have, or lack rows. "
        f"{REBUILD}"
    )
