"""``rowcast snapshot``: asks for snapshots in the primary's database, and waits until the relay has made them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.producer.outbox import missing_of, outbox_tables
from rowcast.producer.relay.backlogs import backlog
from rowcast.producer.snapshots import OPEN, Snapshot, Snapshots, State
from rowcast.shared.config import Settings
from rowcast.shared.databases import open_engine, reach
from rowcast.shared.errors import ConfigurationError

_log = logging.getLogger("rowcast.snapshot")

_LOOK_S = 0.25
_LONELY_S = 5.0

CHANGES = {
    "pause": ((State.requested, State.running), State.paused),
    "resume": ((State.paused,), State.running),
    "stop": (OPEN, State.stopped),
}
"""What can become of snapshots that are under way: from which states to which."""


@dataclass(frozen=True, slots=True)
class SnapshotProgress:
    """``rows`` that Kafka has, of all tables; ``state`` in words."""

    rows: int
    tables: int
    done: int
    state: str


class SnapshotRequests:
    """The snapshots of one primary, as its user asks for them. Raises UnreachableError, ConfigurationError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine = open_engine(settings.require_primary().sqlalchemy_url, "primary", pooled=False)
        self._tables = outbox_tables(sa.MetaData())
        self._snapshots = Snapshots(self._tables)
        reach(self._engine, "primary")
        with self._engine.connect() as connection:
            for table in self._tables:
                if missing := missing_of(table, connection):
                    raise ConfigurationError(f"in {self._engine.url} the table {table.name} {missing}.")

    def ask(self, names: Sequence[str], condition: str | None, chunk_rows: int) -> list[int]:
        """Returns the new snapshots' ids. Raises ConfigurationError for a table that is not captured."""
        with self._engine.begin() as connection:
            return self._snapshots.request(connection, names, condition, chunk_rows)

    def change(self, what: str, names: Sequence[str]) -> int:
        """``what``: see CHANGES; of all tables if none is named. Returns how many snapshots it was done to."""
        states, to = CHANGES[what]
        with self._engine.begin() as connection:
            ids = [s.id for s in self._snapshots.all(connection) if not names or _is_named(s, names)]
            return self._snapshots.change(connection, states, to, ids) if ids else 0

    def wait(
        self, ids: Sequence[int], stop: threading.Event, on_progress: Callable[[SnapshotProgress], None]
    ) -> list[Snapshot]:
        """Until they have ended, or ``stop``. Returns them as they are then."""
        waited = 0.0
        while True:
            with self._engine.connect() as connection:
                found = [s for s in self._snapshots.all(connection) if s.id in ids]
            open_ = [s for s in found if s.state in OPEN]
            rows = sum(s.rows_read for s in found)
            state = f"{open_[0].table}: {open_[0].state}" if open_ else "done"
            on_progress(SnapshotProgress(rows, len(found), len(found) - len(open_), state))
            if not open_ or stop.wait(_LOOK_S):
                return found
            waited += _LOOK_S
            if waited == _LONELY_S and backlog(self._engine, self._settings.source).expires_in_ms <= 0:
                _log.warning("no relay leads the source %s: start one, rowcast relay", self._settings.source)

    def close(self) -> None:
        self._engine.dispose()


def _is_named(snapshot: Snapshot, names: Sequence[str]) -> bool:
    return snapshot.table in names or snapshot.table.partition(".")[2] in names
