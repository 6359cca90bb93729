"""Reading the outbox: what is visible, by id, never ``id > last``, for ids do not become visible in order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer import transaction_names
from rowcast.producer.clock import now_ms
from rowcast.producer.outbox import OutboxTables
from rowcast.producer.ready_statements import ReadyStatement
from rowcast.producer.relay.connections import Connections
from rowcast.shared.errors import RetriableError
from rowcast.shared.types import engine_family

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


class Outbox:
    """The outbox as one relay reads and empties it."""

    def __init__(self, connections: Connections, tables: OutboxTables) -> None:
        self._connections = connections
        self._reader = connections.reader
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
        found = look.fetch(
            self._reader, {"first": without.start, "last": without.stop - 1, "limit": limit, "above": above}
        )
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

    def heads_of(self, tx: str, after_id: int, end_id: int, limit: int) -> list[Head]:
        """One transaction's first rows with ids above ``after_id`` and not above ``end_id``."""
        row = self._row
        heads = self._heads.where(row.id > after_id, row.id <= end_id, row.tx == tx).limit(limit)
        return [Head(*head) for head in self._reader.execute(heads)]

    def going_on(self, transactions: Collection[str], after_id: int) -> set[str]:
        """Those of the transactions that have rows above ``after_id``."""
        row = self._row
        found = sa.select(row.tx).where(row.id > after_id, row.tx.in_(transactions))
        # The next row of a single transaction is usually near; of many, one look through all must do.
        found = found.order_by(row.id).limit(1) if len(transactions) == 1 else found.distinct()
        return set(self._reader.execute(found).scalars())

    def first_to_end(self, from_id: int, claimed: Collection[int]) -> tuple[str, int]:
        """The transaction whose greatest id is the least, and that id. It reads all of the outbox from ``from_id``.

        There is one: the caller has seen rows that are not claimed.
        """
        row = self._row
        end = sa.func.max(row.id).label("end_id")
        ends = sa.select(row.tx, end).where(row.id >= from_id).group_by(row.tx).order_by(end).limit(len(claimed) + 1)
        return next((tx, end_id) for tx, end_id in self._reader.execute(ends) if end_id not in claimed)

    def rows(self, ids: Sequence[int]) -> list[OutboxRow]:
        """Those of the rows that are there, in the order of ``ids``."""
        found = {row[0]: OutboxRow(*row) for row in self._rows.fetch(self._reader, self._parameter(ids))}
        return [found[id_] for id_ in ids if id_ in found]

    def delete(self, ids: Sequence[int]) -> None:
        """Runs in a transaction of the writer that the caller has begun."""
        statement = sa.text(f"{_DELETE[self._family]} {_FROM[self._family]}")
        self._connections.writer.execute(statement, self._parameter(ids))

    def ids_of(self, tx: str) -> list[int]:
        """All rows of a transaction. It reads all of the outbox."""
        row = self._row
        return list(self._reader.execute(sa.select(row.id).where(row.tx == tx).order_by(row.id)).scalars())

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

    def _parameter(self, ids: Sequence[int]) -> dict[str, object]:
        return {"ids": list(ids) if self._family == "postgresql" else orjson.dumps(list(ids)).decode()}
