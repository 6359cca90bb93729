"""Writes the captured tables' shapes beside the outbox, in or before the first transaction that names them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection

from rowcast.producer.capturing import Capturer, capturers, hand_over
from rowcast.producer.clock import now_ms
from rowcast.producer.outbox import OutboxTables, missing_of
from rowcast.producer.predicates import RowPredicate, check_predicate
from rowcast.producer.tables import CapturedTable, CapturedTables
from rowcast.producer.touched import Folded, Key, Touched
from rowcast.shared.errors import ConfigurationError


class ShapeLog:
    """The shapes of one engine's captured tables; those under a schema_translate_map are known once they change."""

    def __init__(
        self,
        outbox: OutboxTables,
        tables: CapturedTables,
        captured: Callable[[Connection, sa.Table], CapturedTable | None],
    ) -> None:
        self._outbox = outbox
        self._wanted = tables
        self._captured = captured
        self._count = -1
        self._translated: set[CapturedTable] = set()
        self._confirmed: frozenset[CapturedTable] = frozenset()

    def confirms(self, tables: Iterable[CapturedTable]) -> bool:
        """Whether the shapes of these and of all other tables are committed; not once the metadata has grown."""
        metadata = self._wanted.metadata
        if self._count != len(metadata.tables):
            return False
        return all(table.table.metadata is metadata or table in self._confirmed for table in tables)

    def _is_translated(self, table: CapturedTable) -> bool:
        return table.table.metadata is not self._wanted.metadata

    def write(
        self,
        connection: Connection,
        touched: Touched,
        folded: Folded,
    ) -> None:
        """Writes the shapes that are not there yet, in the application's transaction.

        Raises ConfigurationError if the outbox is not there, or another version's, or a table's condition is none.
        """
        shape = self._outbox.shape
        for own in (shape, self._outbox.outbox):
            if lacking := missing_of(own, connection):
                raise ConfigurationError(
                    f"the capture is installed, but in {connection.engine.url} the table {own.name} {lacking}."
                )
        count = len(self._wanted.metadata.tables)
        self._translated.update(filter(self._is_translated, folded))
        known = {tuple(row) for row in connection.execute(sa.select(shape.c.table_name, shape.c.version))}
        seen = {name for name, _ in known}
        tables = list(self._tables(connection))
        missing = [t for t in tables if (t.full_name, t.version) not in known]
        for table in missing:
            check_predicate(connection, table)
            rows_before = table.full_name not in seen and has_rows(connection, table, beyond=folded.get(table, {}))
            write_shape(connection, shape, table, rows_before=rows_before)
            touched.shapes_written = True
        by = capturers(connection, shape)
        for table in tables:
            if by.get(table.full_name) is Capturer.nobody:
                hand_over(connection, shape, table.full_name, Capturer.listeners)
                touched.shapes_written = True
        if not missing and not touched.shapes_written:
            self._count = count
            self._confirmed = frozenset(self._translated)

    def _tables(self, connection: Connection) -> Iterator[CapturedTable]:
        for table in self._wanted:
            if not self._wanted.listens(table):
                continue
            captured = self._captured(connection, table)
            # A model whose table was never created has nothing to say.
            if captured is not None and connection.dialect.has_table(connection, table.name, schema=table.schema):
                yield captured
        yield from tuple(self._translated)


def has_rows(connection: Connection, table: CapturedTable, beyond: Collection[Key] = ()) -> bool:
    """Whether the table has more rows than ``beyond``, which this transaction has touched: they came before the
    capture."""
    some: sa.Select[Any] = sa.select(sa.literal_column("1")).select_from(table.table).limit(len(beyond) + 1)
    if table.where is not None:
        some = some.where(RowPredicate(table))
    return connection.execute(sa.select(sa.func.count()).select_from(some.subquery())).scalar_one() > len(beyond)


def write_shape(connection: Connection, shape: sa.Table, table: CapturedTable, *, rows_before: bool) -> None:
    """Writes the table's shape into ``rowcast_shape``, unless it is there."""
    connection.execute(
        _insert_unless_there(connection, shape),
        {
            "table_name": table.full_name,
            "version": table.version,
            "rows_before": rows_before,
            "shape": table.shape.to_json().decode(),
        },
    )


def _insert_unless_there(connection: Connection, table: sa.Table) -> sa.Insert:
    """Another process may write the same at the same time."""
    values = {"created_ms": now_ms(connection.dialect)}
    match connection.dialect.name:
        case "postgresql":
            return postgresql.insert(table).values(values).on_conflict_do_nothing()
        case "sqlite":
            return sqlite.insert(table).values(values).on_conflict_do_nothing()
    return mysql.insert(table).values(values).on_duplicate_key_update(table_name=table.c.table_name)
