"""Snapshots of rows that are there: asked for in a table of the primary, carried out by the relay that leads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.clock import now_ms
from rowcast.producer.outbox import OutboxTables
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.shapes import TableShape


class State(StrEnum):
    """``rowcast_snapshot.state``."""

    requested = "requested"
    running = "running"
    paused = "paused"
    stopped = "stopped"
    done = "done"
    failed = "failed"


OPEN = (State.requested, State.running, State.paused)
"""Those that will go on, or may."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One table's. ``last_key``: JSON, see ``resume_keys``; ``rows_read``: those that Kafka has committed."""

    id: int
    table: str
    condition: str | None
    chunk_rows: int
    state: State
    last_key: str | None
    rows_read: int
    reason: str | None


class Snapshots:
    """The requests of one primary. Each call runs in the transaction of the connection it is given."""

    def __init__(self, tables: OutboxTables) -> None:
        self._table = tables.snapshot
        self._shape = tables.shape

    def shapes(self, connection: Connection) -> dict[str, TableShape]:
        """The newest shape of each table that is captured, by ``schema.table``."""
        row = self._shape.c
        found = connection.execute(sa.select(row.table_name, row.shape).order_by(row.created_ms, row.version))
        newest = {name: document for name, document in found}  # noqa: C416  # rows are no pairs to mypy
        return {name: _read_shape(name, document) for name, document in newest.items()}

    def newest_shape(self, connection: Connection, name: str) -> TableShape | None:
        """As ``shapes``, of one table; None if it is not captured."""
        row = self._shape.c
        newest = sa.select(row.shape).where(row.table_name == name).order_by(row.created_ms.desc(), row.version.desc())
        document = connection.execute(newest.limit(1)).scalar_one_or_none()
        return None if document is None else _read_shape(name, document)

    def request(
        self, connection: Connection, names: Sequence[str], condition: str | None = None, chunk_rows: int = 5_000
    ) -> list[int]:
        """Asks for the tables' rows, all captured tables' if none is named; returns the snapshots' ids, in the order in
        which they will be made: a table after those that it refers to.

        Raises ConfigurationError for a table that is not captured.
        """
        shapes = self.shapes(connection)
        wanted = [_full_name(name, shapes) for name in names] or sorted(shapes)
        row = {
            "condition": condition,
            "chunk_rows": chunk_rows,
            "state": State.requested.value,
            "rows_read": 0,
        }
        asked = sa.insert(self._table).values(requested_ms=now_ms(connection.dialect))
        ids = []
        for name in _parents_first(dict.fromkeys(wanted), shapes):
            done = connection.execute(asked, {**row, "table_name": name})
            assert done.inserted_primary_key is not None
            ids.append(int(done.inserted_primary_key[0]))
        return ids

    def wanting(self, connection: Connection) -> Sequence[str]:
        """The tables with rows from before the capture of which no snapshot of all rows was ever asked for."""
        row, asked = self._shape.c, self._table.c
        whole = sa.select(asked.table_name).where(asked.condition.is_(None))
        before = sa.select(row.table_name).distinct().where(row.rows_before, row.table_name.not_in(whole))
        return connection.execute(before).scalars().all()

    def begun_anew(self, connection: Connection) -> Sequence[str]:
        """The tables of which all rows are asked for, and none is read yet."""
        row = self._table.c
        whole = sa.select(row.table_name).where(row.state == State.requested.value, row.condition.is_(None))
        return connection.execute(whole).scalars().all()

    def all(self, connection: Connection) -> list[Snapshot]:
        """Every one that was asked for, in that order."""
        return self._read(connection, sa.true())

    def next(self, connection: Connection, beyond: Iterable[int]) -> Snapshot | None:
        """The first that is to go on, but for these."""
        row = self._table.c
        going = row.state.in_((State.requested.value, State.running.value))
        found = self._read(connection, sa.and_(going, row.id.not_in(list(beyond))), limit=1)
        return found[0] if found else None

    def _read(self, connection: Connection, which: sa.ColumnElement[bool], limit: int | None = None) -> list[Snapshot]:
        row = self._table.c
        columns = (row.id, row.table_name, row.condition, row.chunk_rows, row.state, row.last_key, row.rows_read)
        found = connection.execute(sa.select(*columns, row.reason).where(which).order_by(row.id).limit(limit))
        return [
            Snapshot(id_, name, condition, chunk, State(state), last_key, read, reason)
            for id_, name, condition, chunk, state, last_key, read, reason in found
        ]

    def change(self, connection: Connection, states: Sequence[State], to: State, ids: Sequence[int] = ()) -> int:
        """Those (of these ids) in one of ``states`` are ``to`` from now on. Returns how many they were."""
        row = self._table.c
        statement = sa.update(self._table).where(row.state.in_([s.value for s in states])).values(state=to.value)
        if to in (State.done, State.stopped, State.failed):
            statement = statement.values(finished_ms=now_ms(connection.dialect))
        if ids:
            statement = statement.where(row.id.in_(list(ids)))
        return connection.execute(statement).rowcount

    def fail(self, connection: Connection, id_: int, reason: str) -> None:
        """It cannot go on, and why."""
        row = self._table.c
        values = {"state": State.failed.value, "reason": reason, "finished_ms": now_ms(connection.dialect)}
        connection.execute(sa.update(self._table).where(row.id == id_).values(values))

    def advance(self, connection: Connection, id_: int, last_key: str | None, rows: int) -> None:
        """Kafka has committed a chunk of ``rows``; ``last_key`` None: it was the last."""
        row = self._table.c
        values: dict[str, object] = {"last_key": last_key, "rows_read": row.rows_read + rows}
        connection.execute(sa.update(self._table).where(row.id == id_).values(values))
        if last_key is not None:
            self.change(connection, [State.requested], State.running, [id_])
            return
        self.change(connection, OPEN, State.done, [id_])
        whole = sa.select(row.table_name).where(row.id == id_, row.condition.is_(None)).scalar_subquery()
        # What was there before the capture is in the topics now. Other rows an application may have locked.
        before = sa.and_(self._shape.c.table_name == whole, self._shape.c.rows_before)
        connection.execute(sa.update(self._shape).where(before).values(rows_before=False))


def _read_shape(name: str, document: str) -> TableShape:
    try:
        return TableShape.from_json(document)
    except DataError as error:
        raise DataError(f"the row of table {name} in rowcast_shape: {error}") from error


def _full_name(name: str, shapes: dict[str, TableShape]) -> str:
    """``name`` may leave out the default schema."""
    found = [full for full, shape in shapes.items() if full == name or (shape.default_schema and shape.name == name)]
    if not found:
        known = ", ".join(sorted(shapes)) or "none yet: let the application commit a change first"
        raise ConfigurationError(f"no table {name!r} is captured (captured: {known}).")
    return found[0]


def _parents_first(names: Iterable[str], shapes: dict[str, TableShape]) -> list[str]:
    ordered: list[str] = []
    left = list(names)
    while left:
        free = [n for n in left if not (_parents(shapes[n]) & set(left)) - {n}]
        # Where foreign keys go round there is no right order.
        ordered += free or left[:1]
        left = [n for n in left if n not in ordered]
    return ordered


def _parents(shape: TableShape) -> set[str]:
    return {f"{key.referred_schema}.{key.referred_table}" for key in shape.foreign_keys}
