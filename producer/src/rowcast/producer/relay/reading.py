"""Reading the outbox: what is visible, by id, never ``id > last``, for ids do not become visible in order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer import transaction_names
from rowcast.producer.clock import now_ms
from rowcast.producer.outbox import OutboxTables
from rowcast.producer.ready_statements import ReadyStatement
from rowcast.producer.relay.connections import Connections
from rowcast.producer.relay.patience import patiently
from rowcast.shared.errors import RetriableError
from rowcast.shared.types import engine_family

_P = TypeVar("_P")

_SMALL = 8 * 1024
"""Rows with changes of so many bytes come with their heads: a thousand of them at most, and nearly all are claimed at
once."""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """An outbox row to be published."""

    id: int
    tx: str
    ts_ms: int
    changes: str
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """An outbox row. ``size`` is that of its changes, in bytes; ``row`` is all of it, where it came along."""

    id: int
    tx: str
    ts_ms: int
    complete: bool | None
    size: int
    row: OutboxRow | None = None


# One parameter for any number of ids. MariaDB and MySQL read a table from end to end where an IN list names many of its
# rows, and a DELETE that does so waits for every insert that is not committed yet: the join goes by primary key.
_MYSQL_IDS = (
    "JSON_TABLE(:ids, '$[*]' COLUMNS (id BIGINT PATH '$')) AS ids STRAIGHT_JOIN rowcast_outbox AS o ON o.id = ids.id"
)
_FROM = {
    "postgresql": "FROM rowcast_outbox AS o WHERE o.id = ANY(CAST(:ids AS bigint[]))",
    "sqlite": "FROM rowcast_outbox AS o WHERE o.id IN (SELECT value FROM json_each(:ids))",
    "mysql": f"FROM {_MYSQL_IDS}",
}
_COLUMNS = "o.id, o.tx, o.ts_ms, o.changes, o.context"
_DELETE = {"postgresql": "DELETE", "sqlite": "DELETE", "mysql": "DELETE o"}


def _all(connection: Connection, statement: sa.Select[Any]) -> Sequence[Any]:
    return connection.execute(statement).all()


class Outbox:
    """The outbox as one relay reads and empties it. ``meanwhile`` is called now and then while a read may take long; it
    must leave the reader alone."""

    def __init__(
        self, connections: Connections, tables: OutboxTables, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        self._connections = connections
        self._reader = connections.reader
        self._meanwhile = meanwhile
        # Whoever takes over may find anything.
        self._many = True
        self._snapshot: Connection | None = None
        self._family = engine_family(connections.dialect.name)
        row = tables.outbox.c
        size: sa.ColumnElement[int] = (
            sa.func.length(sa.cast(row.changes, sa.LargeBinary))
            if self._family == "sqlite"
            else sa.func.octet_length(row.changes)
        )
        self._row = row
        self._heads = sa.select(row.id, row.tx, row.ts_ms, row.complete, size).order_by(row.id)
        small = sa.and_(row.id > sa.bindparam("above"), size <= _SMALL)
        with_rows = self._heads.add_columns(sa.case((small, row.changes)), sa.case((small, row.context)))
        without = row.id.between(sa.bindparam("first"), sa.bindparam("last"))
        with_rows = with_rows.where(~without).limit(sa.bindparam("limit", type_=sa.Integer))
        # They are in the way of every event.
        self._look = ReadyStatement(with_rows, connections.dialect)
        self._look_past_token = ReadyStatement(with_rows.where(row.tx != transaction_names.token), connections.dialect)
        self._rows = ReadyStatement(sa.text(f"SELECT {_COLUMNS} {_FROM[self._family]}"), connections.dialect)

    def at(self, snapshot: Connection) -> Outbox:
        """The outbox as it was at one moment."""
        outbox = copy(self)
        outbox._reader = outbox._snapshot = snapshot
        return outbox

    def heads(self, limit: int, without: range, above: int) -> list[Head]:
        """The first rows that are visible now but for these ids: of each transaction all rows or, where ``limit``
        cuts, the first. Those ``above`` an id come whole if they are small."""
        look = self._look_past_token if self.seal() else self._look
        parameters = {"first": without.start, "last": without.stop - 1, "limit": limit, "above": above}
        # A thread would take longer than a look at a few rows, which is in the way of every event.
        found = self._patiently(look.fetch, parameters) if self._many else look.fetch(self._reader, parameters)
        self._many = len(found) == limit
        return [
            Head(id_, tx, ts_ms, complete, size, None if changes is None else OutboxRow(id_, tx, ts_ms, changes, text))
            for id_, tx, ts_ms, complete, size, changes, text in found
        ]

    def seal(self) -> bool:
        """Whether SQLite's triggers write here; what they have written before this is then a whole transaction's.

        In a snapshot, which nobody can add to, nothing is sealed: see ``is_sealed``.
        """
        reader, writer = self._reader, self._connections.writer
        if self._family != "sqlite" or not transaction_names.has_token(reader):
            return False
        if self._snapshot is None and transaction_names.token_is_used(reader):
            with writer.begin():
                transaction_names.seal(writer)
        return True

    def is_sealed(self) -> bool:
        """Whether every row that is visible belongs to a transaction that ``heads`` tells."""
        return not self.seal() or not transaction_names.token_is_used(self._reader)

    def heads_of(self, transactions: Collection[str], after_id: int, end_id: int, limit: int) -> list[Head]:
        """The transactions' first rows with ids above ``after_id`` and not above ``end_id``."""
        row = self._row
        heads = self._heads.where(row.id > after_id, row.id <= end_id, row.tx.in_(transactions)).limit(limit)
        return [Head(*head) for head in self._patiently(_all, heads)]

    def ends(self, from_id: int, claimed: Collection[int], most: int) -> list[tuple[str, int, int]]:
        """Those transactions whose greatest ids are the least, in that order: name, greatest id, and how many rows they
        have. About ``most``, all with rows from ``from_id`` on, and none that is claimed whole; no other can be claimed
        in part. It reads all of the outbox from there.
        """
        row = self._row
        end = sa.func.max(row.id).label("end_id")
        ends = sa.select(row.tx, end, sa.func.count()).where(row.id >= from_id)
        if self._family == "sqlite" and transaction_names.has_token(self._reader):
            # More may be written under it.
            ends = ends.where(row.tx != transaction_names.token)
        if self._family == "mysql":
            # By sorting: what groups in a table of its own writes it to the disk, and takes ten times as long.
            ends = ends.prefix_with("SQL_BIG_RESULT")
        ends = ends.group_by(row.tx).order_by(end).limit(most + len(claimed))
        return [(tx, end_id, rows) for tx, end_id, rows in self._patiently(_all, ends) if end_id not in claimed]

    def rows(self, ids: Sequence[int], *, large: bool = True) -> list[OutboxRow]:
        """Those of the rows that are there, in the order of ``ids``. ``large``: they may be."""
        parameter = self._parameter(ids)
        rows = self._patiently(self._rows.fetch, parameter) if large else self._rows.fetch(self._reader, parameter)
        found = {row[0]: OutboxRow(*row) for row in rows}
        return [found[id_] for id_ in ids if id_ in found]

    def delete(self, ids: Sequence[int]) -> None:
        """Runs in a transaction of the writer that the caller has begun."""
        statement = sa.text(f"{_DELETE[self._family]} {_FROM[self._family]}")
        self._connections.writer.execute(statement, self._parameter(ids))

    def ids_of(self, tx: str) -> list[int]:
        """All rows of a transaction. It reads all of the outbox."""
        row = self._row
        return [id_ for (id_,) in self._patiently(_all, sa.select(row.id).where(row.tx == tx).order_by(row.id))]

    def park(self, ids: Sequence[int], reason: str) -> None:
        """Moves the rows to ``rowcast_parked``; as ``delete``. Raises RetriableError if one of them has gone."""
        statement = sa.text(
            "INSERT INTO rowcast_parked (id, tx, ts_ms, changes, context, reason, parked_ms) "
            f"SELECT {_COLUMNS}, :reason, {now_ms(self._connections.dialect)} {_FROM[self._family]}"
        )
        parked = self._connections.writer.execute(statement, {"reason": reason, **self._parameter(ids)})
        if parked.rowcount != len(ids):
            raise RetriableError("outbox rows have gone between two looks at them: looking again")
        self.delete(ids)

    def _patiently(self, read: Callable[[Connection, _P], Sequence[Any]], what: _P) -> Sequence[Any]:
        return patiently(lambda: read(self._reader, what), self._meanwhile)

    def _parameter(self, ids: Sequence[int]) -> dict[str, object]:
        return {"ids": list(ids) if self._family == "postgresql" else orjson.dumps(list(ids)).decode()}
