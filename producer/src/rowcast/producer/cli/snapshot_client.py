"""Request snapshots in the primary for ``rowcast snapshot``, and wait until the relay has published them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.producer.outbox.backlog import backlog
from rowcast.producer.outbox.schema import missing_parts, outbox_tables
from rowcast.producer.outbox.snapshot_requests import OPEN_STATES, SnapshotRequest, SnapshotRequests, SnapshotState
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import ConfigurationError

_log = logging.getLogger("rowcast.snapshot")

_POLL_S = 0.25
_NO_LEADER_WARNING_S = 5.0

CHANGES = {
    "pause": ((SnapshotState.requested, SnapshotState.running), SnapshotState.paused),
    "resume": ((SnapshotState.paused,), SnapshotState.running),
    "stop": ((*OPEN_STATES, SnapshotState.failed), SnapshotState.stopped),
}
"""The changes of snapshots: from which states to which state. A failed snapshot that is stopped is not shown again."""


@dataclass(frozen=True, slots=True)
class SnapshotProgress:
    """Report the progress. ``rows``: published rows of all tables. ``done``: finished tables."""

    rows: int
    tables: int
    done: int
    state: str


class SnapshotClient:
    """Request, change and await the snapshots of a primary.

    Raises UnreachableError if the primary does not answer, ConfigurationError if it has no outbox.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine = open_engine(settings.require_primary().sqlalchemy_url, "primary", pooled=False)
        self._tables = outbox_tables(sa.MetaData())
        self._snapshots = SnapshotRequests(self._tables)
        reach(self._engine, "primary")
        with self._engine.connect() as connection:
            for table in self._tables:
                if missing := missing_parts(table, connection):
                    raise ConfigurationError(f"in {self._engine.url}, the table {table.name} {missing}.")

    def request(self, names: Sequence[str], condition: str | None, chunk_rows: int) -> list[int]:
        """Request snapshots, and return their ids. Raises ConfigurationError for an uncaptured table."""
        with self._engine.begin() as connection:
            return self._snapshots.request(connection, names, condition, chunk_rows)

    def next_lsn(self) -> int:
        """Return the next lsn that the relay gives. Rows of a later request have this lsn or a greater one."""
        return backlog(self._engine, self._settings.source, most_rows=0).next_lsn

    def change(self, what: str, names: Sequence[str]) -> int:
        """Change the snapshots of the named tables, or of all tables. Return how many snapshots changed.

        ``what``: a key of CHANGES.
        """
        states, to = CHANGES[what]
        with self._engine.begin() as connection:
            ids = [s.id for s in self._snapshots.all(connection) if not names or _is_named(s, names)]
            return self._snapshots.change_state(connection, states, to, ids) if ids else 0

    def wait(
        self, ids: Sequence[int], stop: threading.Event, on_progress: Callable[[SnapshotProgress], None]
    ) -> list[SnapshotRequest]:
        """Wait until the snapshots have ended or ``stop`` is set, and return them."""
        waited = 0.0
        while True:
            with self._engine.connect() as connection:
                found = [s for s in self._snapshots.all(connection) if s.id in ids]
            open_ = [s for s in found if s.state in OPEN_STATES]
            rows = sum(s.rows_read for s in found)
            state = f"{open_[0].table}: {open_[0].state}" if open_ else "done"
            on_progress(SnapshotProgress(rows, len(found), len(found) - len(open_), state))
            if not open_ or stop.wait(_POLL_S):
                return found
            waited += _POLL_S
            if waited == _NO_LEADER_WARNING_S and backlog(self._engine, self._settings.source).expires_in_ms <= 0:
                _log.warning("no relay leads the source %s. Start one with `rowcast relay`", self._settings.source)

    def close(self) -> None:
        """Close the connections to the primary."""
        self._engine.dispose()


def _is_named(snapshot: SnapshotRequest, names: Sequence[str]) -> bool:
    return snapshot.table in names or snapshot.table.partition(".")[2] in names
