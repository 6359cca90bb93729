"""Request snapshots in the table ``rowcast_snapshot`` of the primary. The leader reads and publishes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.schema import OutboxTables
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_store import newest_shapes
from rowcast.shared.tables.table_order import parents_first


class SnapshotState(StrEnum):
    """Name the values of ``rowcast_snapshot.state``."""

    requested = "requested"
    running = "running"
    paused = "paused"
    stopped = "stopped"
    done = "done"
    failed = "failed"


OPEN_STATES = (SnapshotState.requested, SnapshotState.running, SnapshotState.paused)
"""The states of unfinished snapshots. A paused snapshot may go on later."""


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """Describe the snapshot of one table.

    ``last_key`` is JSON (see ``resume_key``). ``rows_read`` counts the rows committed by Kafka.
    """

    id: int
    table: str
    condition: str | None
    chunk_rows: int
    state: SnapshotState
    last_key: str | None
    rows_read: int
    reason: str | None

    def replaces(self, earlier: SnapshotRequest) -> bool:
        """Return whether this snapshot, once done, has read all rows of an earlier request."""
        is_later = self.table == earlier.table and self.id > earlier.id
        return is_later and self.condition in (None, earlier.condition)


class SnapshotRequests:
    """Read and write the requests of one primary. Each call runs in the transaction of the given connection."""

    def __init__(self, tables: OutboxTables) -> None:
        self._table = tables.snapshot
        self._shape = tables.shape

    def request(
        self, connection: Connection, names: Sequence[str], condition: str | None = None, chunk_rows: int = 5_000
    ) -> list[int]:
        """Request a snapshot of each named table, or of all captured tables if ``names`` is empty.

        Return the ids of the requests in the order of execution: a table comes after its parents by foreign key. Raises
        ConfigurationError for a table without capture.
        """
        shapes = newest_shapes(connection)
        wanted = [_full_name(name, shapes) for name in names] or sorted(shapes)
        row = {
            "condition": condition,
            "chunk_rows": chunk_rows,
            "state": SnapshotState.requested.value,
            "rows_read": 0,
        }
        asked = sa.insert(self._table).values(requested_ms=capture_dialect(connection.dialect).now_ms())
        ids = []
        for name in parents_first(shapes[name] for name in dict.fromkeys(wanted)):
            done = connection.execute(asked, {**row, "table_name": name})
            assert done.inserted_primary_key is not None
            ids.append(int(done.inserted_primary_key[0]))
        return ids

    def request_again(self, connection: Connection, chunk_rows: int) -> None:
        """Request a snapshot of every captured table, because the topics lack its rows. Stop unfinished snapshots."""
        self.change_state(connection, OPEN_STATES, SnapshotState.stopped)
        connection.execute(sa.update(self._shape).values(rows_before=True))
        if names := sorted(newest_shapes(connection)):
            self.request(connection, names, chunk_rows=chunk_rows)

    def tables_to_snapshot(self, connection: Connection) -> Sequence[str]:
        """Return the tables with rows older than the capture for which no full snapshot was ever requested."""
        row, asked = self._shape.c, self._table.c
        whole = sa.select(asked.table_name).where(asked.condition.is_(None))
        before = sa.select(row.table_name).distinct().where(row.rows_before, row.table_name.not_in(whole))
        return connection.execute(before).scalars().all()

    def tables_lacking_rows(self, connection: Connection, *, by_request: bool) -> set[str]:
        """Return the tables with rows that no full snapshot has published since the capture or the timeline began.

        ``by_request``: only tables with an open request, because no snapshot is requested otherwise.
        """
        row, asked = self._shape.c, self._table.c
        lacking = sa.select(row.table_name).distinct().where(row.rows_before)
        if by_request:
            opened = [state.value for state in OPEN_STATES]
            whole = sa.select(asked.table_name).where(asked.condition.is_(None), asked.state.in_(opened))
            lacking = lacking.where(row.table_name.in_(whole))
        return set(connection.execute(lacking).scalars())

    def all(self, connection: Connection) -> list[SnapshotRequest]:
        """Return all requests, oldest first."""
        return self._read(connection, sa.true())

    def unsettled(self, connection: Connection) -> list[SnapshotRequest]:
        """Return the open requests, and the failed requests that no later snapshot of the table has made good."""
        found = self.all(connection)
        done = [request for request in found if request.state is SnapshotState.done]
        return [
            request
            for request in found
            if request.state in OPEN_STATES
            or (request.state is SnapshotState.failed and not any(later.replaces(request) for later in done))
        ]

    def next(self, connection: Connection, beyond: Iterable[int]) -> SnapshotRequest | None:
        """Return the first request that is requested or running, except the ids in ``beyond``."""
        row = self._table.c
        going = row.state.in_((SnapshotState.requested.value, SnapshotState.running.value))
        found = self._read(connection, sa.and_(going, row.id.not_in(list(beyond))), limit=1)
        return found[0] if found else None

    def _read(
        self, connection: Connection, which: sa.ColumnElement[bool], limit: int | None = None
    ) -> list[SnapshotRequest]:
        row = self._table.c
        columns = (row.id, row.table_name, row.condition, row.chunk_rows, row.state, row.last_key, row.rows_read)
        found = connection.execute(sa.select(*columns, row.reason).where(which).order_by(row.id).limit(limit))
        return [
            SnapshotRequest(id_, name, condition, chunk, SnapshotState(state), last_key, read, reason)
            for id_, name, condition, chunk, state, last_key, read, reason in found
        ]

    def change_state(
        self, connection: Connection, states: Sequence[SnapshotState], to: SnapshotState, ids: Sequence[int] = ()
    ) -> int:
        """Change the requests in any of ``states`` to the state ``to``. Return the number of requests.

        ``ids``: change no further requests.
        """
        row = self._table.c
        statement = sa.update(self._table).where(row.state.in_([s.value for s in states])).values(state=to.value)
        if to in (SnapshotState.done, SnapshotState.stopped, SnapshotState.failed):
            statement = statement.values(finished_ms=capture_dialect(connection.dialect).now_ms())
        if ids:
            statement = statement.where(row.id.in_(list(ids)))
        return connection.execute(statement).rowcount

    def fail(self, connection: Connection, id_: int, reason: str) -> None:
        """Record why the snapshot cannot go on."""
        row = self._table.c
        values = {
            "state": SnapshotState.failed.value,
            "reason": reason,
            "finished_ms": capture_dialect(connection.dialect).now_ms(),
        }
        connection.execute(sa.update(self._table).where(row.id == id_).values(values))

    def record_chunk(self, connection: Connection, id_: int, last_key: str | None, rows: int) -> None:
        """Record a chunk of ``rows`` as committed by Kafka, up to ``last_key``. None: the last chunk."""
        row = self._table.c
        values: dict[str, object] = {"last_key": last_key, "rows_read": row.rows_read + rows}
        connection.execute(sa.update(self._table).where(row.id == id_).values(values))
        if last_key is not None:
            self.change_state(connection, [SnapshotState.requested], SnapshotState.running, [id_])
            return
        self.change_state(connection, OPEN_STATES, SnapshotState.done, [id_])
        whole = sa.select(row.table_name).where(row.id == id_, row.condition.is_(None)).scalar_subquery()
        # The rows older than the capture are in the topics now. Update only the rows with the flag, because an
        # application may have locked the others.
        before = sa.and_(self._shape.c.table_name == whole, self._shape.c.rows_before)
        connection.execute(sa.update(self._shape).where(before).values(rows_before=False))


def _full_name(name: str, shapes: dict[str, TableShape]) -> str:
    """Return the full name of a captured table. ``name`` may leave out the default schema."""
    found = [full for full, shape in shapes.items() if full == name or (shape.default_schema and shape.name == name)]
    if not found:
        known = ", ".join(sorted(shapes)) or "none yet: let the application commit a change first"
        raise ConfigurationError(f"no table {name!r} is captured (captured: {known}). Name a captured table.")
    return found[0]
