"""Writes the captured tables' shapes beside the outbox, in or before the first transaction that names them.

The newest shape of a table is the one with which a process began last, not the one that was written last: a migration
that is rolled back brings back a shape that is there. So a process that first changes a table, and finds its shape
there and not the newest, makes it the newest; once, for where processes with the old models and the new ones run side
by side they would take turns. Not before it changes the table: it may never do so, and have old models of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from operator import attrgetter
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
        self._begun: set[CapturedTable] = set()
        self._superseded: dict[CapturedTable, int | None] = {}

    def confirms(self, tables: Iterable[CapturedTable]) -> bool:
        """Whether the shapes of all tables are committed, and this process has begun with these; not once the metadata
        has grown."""
        return self._count == len(self._wanted.metadata.tables) and self._begun.issuperset(tables)

    def _is_translated(self, table: CapturedTable) -> bool:
        return table.table.metadata is not self._wanted.metadata

    def write(
        self,
        connection: Connection,
        touched: Touched,
        folded: Folded,
    ) -> None:
        """Writes the shapes that are not there yet, and makes those of the touched tables the newest, in the
        application's transaction.

        Raises ConfigurationError if the outbox is not there, or another version's, or a table's condition is none.
        """
        shape, count = self._outbox.shape, len(self._wanted.metadata.tables)
        new = [table for table in folded if table not in self._begun]
        translated = set(filter(self._is_translated, new))
        self._translated |= translated
        tables = set(new)
        if all_ := self._count != count or bool(translated):
            self._check_outbox(connection)
            tables.update(self._tables(connection))
        written = written_versions(connection, shape, None if all_ else [table.full_name for table in tables])
        # In one order: processes that write the same shapes at the same time must not wait for each other in a circle.
        for table in sorted(tables, key=attrgetter("full_name")):
            there = written.get(table.full_name, {})
            rows_before = False
            if table.version not in there:
                check_predicate(connection, table)
                rows_before = not there and has_rows(connection, table, beyond=folded.get(table, {}))
            elif table not in new or not self._is_to_be_newest(table, there):
                continue
            write_newest(connection, shape, table, there, rows_before=rows_before)
            touched.shapes_written = True
        if all_:
            self._take_over(connection, touched, tables)
        # What this transaction has written may be rolled back.
        if not touched.shapes_written:
            self._count = count
            self._begun.update(new)

    def _check_outbox(self, connection: Connection) -> None:
        for own in (self._outbox.shape, self._outbox.outbox):
            if lacking := missing_of(own, connection):
                raise ConfigurationError(
                    f"the capture is installed, but in {connection.engine.url} the table {own.name} {lacking}."
                )

    def _take_over(self, connection: Connection, touched: Touched, tables: Iterable[CapturedTable]) -> None:
        """Those that nobody captures since their triggers were dropped."""
        by = capturers(connection, self._outbox.shape)
        for table in tables:
            if by.get(table.full_name) is Capturer.nobody:
                hand_over(connection, self._outbox.shape, table.full_name, Capturer.listeners)
                touched.shapes_written = True

    def _is_to_be_newest(self, table: CapturedTable, there: Versions) -> bool:
        """Whether a newer version than the table's was there when this process began with it, and nobody has made the
        table's the newest since: neither this process, unless that was rolled back, nor another one."""
        own = there[table.version]
        superseded_at = self._superseded.setdefault(table, None if table.version == newest(there) else own)
        return superseded_at == own

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


Versions = Mapping[str, int]
"""A table's versions in ``rowcast_shape``, each with its ``created_ms``."""


def written_versions(
    connection: Connection, shape: sa.Table, names: Collection[str] | None = None
) -> dict[str, dict[str, int]]:
    """By ``schema.table``, of these or of all tables that were ever captured."""
    found: dict[str, dict[str, int]] = {}
    row = shape.c
    versions = sa.select(row.table_name, row.version, row.created_ms)
    if names is not None:
        versions = versions.where(row.table_name.in_(names))
    for name, version, created_ms in connection.execute(versions):
        found.setdefault(name, {})[version] = created_ms
    return found


def newest(there: Versions) -> str:
    """The version that all who read ``rowcast_shape`` take for the newest."""
    return max(there, key=lambda version: (there[version], version))


def write_newest(
    connection: Connection, shape: sa.Table, table: CapturedTable, there: Versions, *, rows_before: bool
) -> None:
    """Writes the table's shape into ``rowcast_shape``, or makes it the newest if it is ``there``."""
    # Clocks are set back, and two moments may be the same millisecond.
    behind = sa.literal(max(there.values(), default=0), sa.BigInteger)
    now = now_ms(connection.dialect)
    created = {"created_ms": sa.case((now > behind, now), else_=behind + 1)}
    if table.version in there:
        row = shape.c
        own = sa.and_(row.table_name == table.full_name, row.version == table.version)
        # Whoever waited here for another process has nothing more to do.
        unchanged = row.created_ms == there[table.version]
        connection.execute(sa.update(shape).where(own, unchanged).values(created))
        return
    connection.execute(
        _insert_unless_there(connection, shape, created),
        {
            "table_name": table.full_name,
            "version": table.version,
            "rows_before": rows_before,
            "shape": table.shape.to_json().decode(),
        },
    )


def _insert_unless_there(connection: Connection, table: sa.Table, values: Mapping[str, Any]) -> sa.Insert:
    """Another process may write the same at the same time."""
    match connection.dialect.name:
        case "postgresql":
            return postgresql.insert(table).values(values).on_conflict_do_nothing()
        case "sqlite":
            return sqlite.insert(table).values(values).on_conflict_do_nothing()
    return mysql.insert(table).values(values).on_duplicate_key_update(table_name=table.c.table_name)
