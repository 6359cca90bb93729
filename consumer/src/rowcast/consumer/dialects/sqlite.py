"""SQLite: one row a statement, many rows a call; the engine runs in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine

from rowcast.consumer.dialects import values
from rowcast.consumer.dialects.dialect import (
    Fault,
    PositionRow,
    ReplicaDialect,
    ReplicaTable,
    StoredColumn,
    log_orphans,
    quoted_name,
)
from rowcast.consumer.dialects.values import Converter, RowReader
from rowcast.consumer.layouts import Layout
from rowcast.shared.images import register_functions
from rowcast.shared.shapes import PortableType

_Statement = tuple[str, RowReader]

_WRITE_POSITION = (
    "INSERT INTO rowcast_position (source, topic, partition, next_offset, lsn) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (source, topic, partition) DO UPDATE SET next_offset = excluded.next_offset, lsn = excluded.lsn"
)


class SQLiteReplica(ReplicaDialect):
    """Foreign keys are part of the tables and are switched on when the replica is consistent."""

    name = "sqlite"
    foreign_keys_in_table = True

    def __init__(self) -> None:
        self._upserts: dict[tuple[ReplicaTable, Layout], _Statement] = {}
        self._deletes: dict[tuple[ReplicaTable, Layout], _Statement] = {}

    def configure(self, engine: Engine) -> None:
        @event.listens_for(engine, "connect")
        def no_implicit_transactions(connection: object, _record: object) -> None:
            connection.isolation_level = None  # type: ignore[attr-defined]

        # The driver would begin at the first DML only, and as a reader, which may find the lock taken half-way.
        @event.listens_for(engine, "begin")
        def begin_as_writer(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def configure_reader(self, engine: Engine) -> None:
        @event.listens_for(engine, "connect")
        def image_functions(connection: object, _record: object) -> None:
            register_functions(connection)

    def stored_columns(self, connection: Connection, schema: str | None, name: str) -> dict[str, StoredColumn]:
        rows = connection.exec_driver_sql(f"PRAGMA table_xinfo({quoted_name(connection, None, name)})")
        return {r[1]: StoredColumn(r[1], r[2].lower(), not r[3] and not r[5], r[6] in (2, 3)) for r in rows}

    def enter(self, connection: Connection, *, consistent: bool) -> None:
        # Within a transaction, which any statement through SQLAlchemy would begin, the PRAGMA does nothing.
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.cursor().execute(f"PRAGMA foreign_keys = {'ON' if consistent else 'OFF'}")

    def begin(self, connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")

    def key_values(self, table: ReplicaTable, layout: Layout, keys: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        return _reader(table, layout, table.key).rows(keys)

    def upsert(self, connection: Connection, table: ReplicaTable, layout: Layout, images: Sequence[bytes]) -> None:
        if (table, layout) not in self._upserts:
            self._upserts[table, layout] = _upsert_statement(connection, table, layout)
        sql, reader = self._upserts[table, layout]
        connection.exec_driver_sql(sql, list(reader.rows(images)))

    def delete(self, connection: Connection, table: ReplicaTable, layout: Layout, keys: Sequence[bytes]) -> None:
        if (table, layout) not in self._deletes:
            quote = connection.dialect.identifier_preparer.quote_identifier
            where = " AND ".join(f"{quote(name)} = ?" for name in table.key)
            self._deletes[table, layout] = (
                f"DELETE FROM {table.quoted} WHERE {where}",
                _reader(table, layout, table.key),
            )
        sql, reader = self._deletes[table, layout]
        connection.exec_driver_sql(sql, list(reader.rows(keys)))

    def write_positions(self, connection: Connection, rows: Sequence[PositionRow]) -> None:
        connection.exec_driver_sql(_WRITE_POSITION, list(rows))

    def _other_fault(self, error: exc.DBAPIError) -> Fault:
        reason = str(error.orig)
        if "locked" in reason or "busy" in reason:
            return Fault.PASSING
        if "unable to open" in reason or "disk I/O error" in reason or "is full" in reason or "readonly" in reason:
            return Fault.LOST
        return Fault.DATA

    def rows_stand_in_the_way(self, error: exc.DBAPIError) -> bool:
        return isinstance(error, exc.IntegrityError)

    def check_foreign_keys(self, connection: Connection, tables: Sequence[ReplicaTable]) -> bool:
        violations = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        for (table, parent), count in Counter((row[0], row[2]) for row in violations).items():
            log_orphans(table, count, parent)
        return not violations


def _upsert_statement(connection: Connection, table: ReplicaTable, layout: Layout) -> _Statement:
    quote = connection.dialect.identifier_preparer.quote_identifier
    names = table.taken(layout)
    changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in names if name not in table.key)
    sql = (
        f"INSERT INTO {table.quoted} ({', '.join(quote(name) for name in names)}) "
        f"VALUES ({', '.join('?' * len(names))}) "
        f"ON CONFLICT ({', '.join(quote(name) for name in table.key)}) "
        f"DO {f'UPDATE SET {changes}' if changes else 'NOTHING'}"
    )
    return sql, _reader(table, layout, names)


def _reader(table: ReplicaTable, layout: Layout, names: Sequence[str]) -> RowReader:
    same = layout.shape.engine == "sqlite"
    convert = _own_converter if same else _converter
    return RowReader([(name, convert(layout.shape.column(name).type, table.columns[name].type)) for name in names])


def _own_converter(portable: PortableType, stored: str) -> Converter | None:
    """From another SQLite database, whose values need not be what the names of their types say."""
    match portable.name:
        case "float32" | "float64" | "decimal":
            return values.sqlite_own_number
        case "json" if stored == "json":
            # A column of this name has made numbers of documents that look like one.
            return values.sqlite_own_number
        case "timestamp":
            return values.spaced
        case "timestamptz":
            return values.spaced_utc
        case "boolean" | "date":
            return None
    return values.common_converter(portable, stored)


def _converter(portable: PortableType, stored: str) -> Converter | None:
    if "text" in stored or "char" in stored:
        return str if portable.name in ("decimal", "uint64") else values.common_converter(portable, stored)
    match portable.name:
        case "float32" | "float64":
            return values.sqlite_float
        case "decimal" | "uint64":
            return values.sqlite_exact_number if stored else values.sqlite_number
        case "time":
            return values.time_of_day
    return values.common_converter(portable, stored)
