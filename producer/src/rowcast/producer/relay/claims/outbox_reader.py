"""Read the visible outbox rows by id. Never by ``id > last``, because ids become visible out of order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect, transaction_ids
from rowcast.producer.database.precompiled import PrecompiledStatement
from rowcast.producer.outbox.schema import OutboxTables
from rowcast.producer.relay.claims.background_read import read_in_background
from rowcast.producer.relay.claims.connections import Connections
from rowcast.shared.errors import RetriableError

_P = TypeVar("_P")

_SMALL_ROW_BYTES = 8 * 1024
"""Rows with changes up to this size are read together with their heads. At most a thousand such rows are read at once,
and the next claim takes nearly all of them."""

ROWS_GONE = "outbox rows were deleted between two reads. The relay reads the outbox again"


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """Hold an outbox row to publish."""

    id: int
    tx: str
    ts_ms: int
    changes: str
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Hold the part of an outbox row that a selection needs.

    ``size``: bytes of its changes. ``complete``: True if the row is marked as the last of its transaction, None if the
    row has no mark. ``row``: the whole row if it was small enough to be read with the head.
    """

    id: int
    tx: str
    ts_ms: int
    complete: bool | None
    size: int
    row: OutboxRow | None = None


_COLUMNS = "o.id, o.tx, o.ts_ms, o.changes, o.context"


def _fetch_all(connection: Connection, statement: sa.Select[Any]) -> Sequence[Any]:
    return connection.execute(statement).all()


class OutboxReader:
    """Read and delete outbox rows for one relay.

    ``renew_lease`` is called during long reads, and must not use the connection ``reader``.
    """

    def __init__(
        self, connections: Connections, tables: OutboxTables, renew_lease: Callable[[], None] = lambda: None
    ) -> None:
        self._connections = connections
        self._reader = connections.reader
        self._renew_lease = renew_lease
        # A new leader may find a backlog of any size.
        self._expect_many = True
        self._snapshot: Connection | None = None
        self._dialect = capture_dialect(connections.dialect)
        row = tables.outbox.c
        size = self._dialect.byte_length(row.changes)
        self._row = row
        self._select_heads = sa.select(row.id, row.tx, row.ts_ms, row.complete, size).order_by(row.id)
        small = sa.and_(row.id > sa.bindparam("above"), size <= _SMALL_ROW_BYTES)
        with_rows = self._select_heads.add_columns(sa.case((small, row.changes)), sa.case((small, row.context)))
        without = row.id.between(sa.bindparam("first"), sa.bindparam("last"))
        with_rows = with_rows.where(~without).limit(sa.bindparam("limit", type_=sa.Integer))
        # Precompiled statements, because each event waits for these reads.
        self._heads = PrecompiledStatement(with_rows, connections.dialect)
        self._heads_without_token = PrecompiledStatement(
            with_rows.where(row.tx != transaction_ids.TOKEN), connections.dialect
        )
        self._rows = PrecompiledStatement(
            sa.text(f"SELECT {_COLUMNS} {self._dialect.rows_by_ids}"), connections.dialect
        )

    def in_snapshot(self, snapshot: Connection) -> OutboxReader:
        """Return a reader of the outbox in a database snapshot."""
        outbox = copy(self)
        outbox._reader = outbox._snapshot = snapshot
        return outbox

    def heads(self, limit: int, without: range, above: int) -> list[Head]:
        """Return the first ``limit`` visible rows, except those with ids in ``without``.

        All rows of a transaction are visible together, so only the limit can separate them. Small rows with ids above
        ``above`` come with their changes.
        """
        statement = self._heads_without_token if self.seal() else self._heads
        parameters = {"first": without.start, "last": without.stop - 1, "limit": limit, "above": above}
        # To start a thread takes longer than to read a few rows, and each event waits for this read.
        if self._expect_many:
            found = self._read_in_background(statement.fetch, parameters)
        else:
            found = statement.fetch(self._reader, parameters)
        self._expect_many = len(found) == limit
        return [
            Head(id_, tx, ts_ms, complete, size, None if changes is None else OutboxRow(id_, tx, ts_ms, changes, text))
            for id_, tx, ts_ms, complete, size, changes, text in found
        ]

    def seal(self) -> bool:
        """Return whether SQLite's triggers write to this outbox. If so, seal the rows before this call.

        To seal rows is to give the triggers a new token, so that no row can follow under the old token. A database
        snapshot allows no seal: see ``is_sealed``.
        """
        reader, writer = self._reader, self._connections.writer
        if not self._dialect.has_transaction_token or not transaction_ids.has_token(reader):
            return False
        if self._snapshot is None and transaction_ids.token_is_used(reader):
            with writer.begin():
                transaction_ids.seal_token(writer)
        return True

    def is_sealed(self) -> bool:
        """Return whether ``heads`` can return all visible rows, because no row is under the current token."""
        return not self.seal() or not transaction_ids.token_is_used(self._reader)

    def heads_of(self, transactions: Collection[str], after_id: int, end_id: int, limit: int) -> list[Head]:
        """Return the first rows of these transactions with ids above ``after_id`` and up to ``end_id``."""
        row = self._row
        heads = self._select_heads.where(row.id > after_id, row.id <= end_id, row.tx.in_(transactions)).limit(limit)
        return [Head(*head) for head in self._read_in_background(_fetch_all, heads)]

    def transaction_ends(self, from_id: int, claimed: Collection[int], most: int) -> list[tuple[str, int, int]]:
        """Return name, end id and number of rows of the transactions with the lowest end ids, lowest first.

        Reads the whole outbox from the id ``from_id`` on. Leaves out transactions whose last row is in
        ``claimed``, and returns about ``most`` transactions. No transaction may be claimed in part.
        """
        row = self._row
        end = sa.func.max(row.id).label("end_id")
        ends = sa.select(row.tx, end, sa.func.count()).where(row.id >= from_id)
        if self._dialect.has_transaction_token and transaction_ids.has_token(self._reader):
            # Further rows may follow under the current token.
            ends = ends.where(row.tx != transaction_ids.TOKEN)
        ends = self._dialect.group_by_sorting(ends).group_by(row.tx).order_by(end).limit(most + len(claimed))
        found = self._read_in_background(_fetch_all, ends)
        return [(tx, end_id, rows) for tx, end_id, rows in found if end_id not in claimed]

    def rows(self, ids: Sequence[int], *, large: bool = True) -> list[OutboxRow]:
        """Return the outbox rows with these ids, in this order, without deleted rows.

        ``large``: read in a background thread, because the rows may be large.
        """
        parameter = self._parameter(ids)
        if large:
            rows = self._read_in_background(self._rows.fetch, parameter)
        else:
            rows = self._rows.fetch(self._reader, parameter)
        found = {row[0]: OutboxRow(*row) for row in rows}
        return [found[id_] for id_ in ids if id_ in found]

    def delete(self, ids: Sequence[int]) -> None:
        """Delete outbox rows. The caller has begun a transaction of the writer."""
        statement = sa.text(f"{self._dialect.delete_rows} {self._dialect.rows_by_ids}")
        self._connections.writer.execute(statement, self._parameter(ids))

    def ids_of_transaction(self, tx: str) -> list[int]:
        """Return the ids of all rows of a transaction. Reads the whole outbox."""
        row = self._row
        ids = sa.select(row.id).where(row.tx == tx).order_by(row.id)
        return [id_ for (id_,) in self._read_in_background(_fetch_all, ids)]

    def park(self, ids: Sequence[int], reason: str) -> None:
        """Move outbox rows to ``rowcast_parked``. The caller has begun a transaction of the writer.

        Raises RetriableError if one of the rows was deleted.
        """
        statement = sa.text(
            "INSERT INTO rowcast_parked (id, tx, ts_ms, changes, context, reason, parked_ms) "
            f"SELECT {_COLUMNS}, :reason, {self._dialect.now_ms()} {self._dialect.rows_by_ids}"
        )
        parked = self._connections.writer.execute(statement, {"reason": reason, **self._parameter(ids)})
        if parked.rowcount != len(ids):
            raise RetriableError(ROWS_GONE)
        self.delete(ids)

    def _read_in_background(self, read: Callable[[Connection, _P], Sequence[Any]], what: _P) -> Sequence[Any]:
        return read_in_background(lambda: read(self._reader, what), self._renew_lease)

    def _parameter(self, ids: Sequence[int]) -> dict[str, object]:
        return {"ids": self._dialect.ids_parameter(ids)}
