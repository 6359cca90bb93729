"""Read the place of an event in the log of the source's database, and recognize repeated events by it.

Debezium writes each event at least once. After a crash a connector begins again at its last stored offset, and writes
the events since then once more, behind the events of the first time. The offsets of Kafka do not show the repetition,
and an older state of a row would overwrite a newer one.

The events of a partition are in the order of commits. PostgreSQL's lsn of an event alone does not grow, because
transactions overlap in the log: the order is the lsn of the last commit before, then the event's own lsn. Both may be
equal for several rows of one statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

_SNAPSHOTS = frozenset(("true", "first", "first_in_data_collection", "last_in_data_collection", "last"))
# A file of the binary log is shorter than a terabyte.
_FILE_SIZE = 2**40


class LogPlace(NamedTuple):
    """A place in one log. Places of different ``history`` cannot be compared.

    ``committed``: the last commit before, as a growing number of the log. ``number``: the event's own place.
    ``counts_rows``: ``number`` is the row within the place ``committed``, as in the binary log of MySQL.
    """

    history: str
    committed: int
    number: int
    counts_rows: bool = False

    @property
    def in_transaction(self) -> tuple[int, int]:
        """Return the place among the events of a transaction."""
        return (self.committed if self.counts_rows else 0), self.number

    @property
    def statement(self) -> int:
        """Return a number that grows with the statements of a transaction. Rows of one statement may share a number."""
        return self.committed if self.counts_rows else self.number


def log_place(source: Mapping[str, Any]) -> LogPlace | None:
    """Return the place of an event, or None if the event has no place."""
    if isinstance(lsn := source.get("lsn"), int):
        return LogPlace("", _committed(source.get("sequence"), lsn), lsn)
    file, position = source.get("file"), source.get("pos")
    if isinstance(file, str) and isinstance(position, int):
        _, _, digits = file.rpartition(".")
        if digits.isdecimal():
            number = int(digits) * _FILE_SIZE + position
            return LogPlace(_server(source), number, int(source.get("row") or 0), counts_rows=True)
    return None


def _committed(sequence: Any, lsn: int) -> int:
    """Return the lsn of the last commit before. The first transaction after a snapshot has none."""
    if isinstance(sequence, str):
        members = orjson.loads(sequence)
        if isinstance(members, list) and members and members[0] is not None:
            return int(members[0])
    return lsn


def _server(source: Mapping[str, Any]) -> str:
    """Return the server that wrote the log. After a failover, the new server has new files."""
    gtid = source.get("gtid")
    return gtid.rpartition(":")[0] if isinstance(gtid, str) else str(source.get("server_id"))


def is_snapshot(source: Mapping[str, Any]) -> bool:
    """Return whether the event belongs to a snapshot of whole tables, from which a new history may begin."""
    return str(source.get("snapshot")) in _SNAPSHOTS


class PlaceMemory:
    """Remember the furthest place of a partition. ``committed``: the place stored in the replica, or 0."""

    def __init__(self, committed: int = 0) -> None:
        self.committed = committed
        self._furthest: LogPlace | None = None

    def is_repetition(self, place: LogPlace, *, snapshot: bool) -> bool:
        """Return whether the event was read before, and remember its place if not.

        An event in doubt is no repetition, because an event must not be lost: of another history, or in the
        transaction at which an earlier worker has stopped.
        """
        before = self._furthest
        if not snapshot:
            if before is None and not place.history and place.committed < self.committed:
                return True
            if before is not None and before.history == place.history and place < before:
                return True
        self._furthest, self.committed = place, place.committed
        return False
