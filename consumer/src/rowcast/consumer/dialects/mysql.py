"""MariaDB and MySQL: many rows a statement, foreign keys looked at row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Dialect, Engine

from rowcast.consumer.dialects import values
from rowcast.consumer.dialects.dialect import (
    Fault,
    PositionRow,
    ReplicaDialect,
    ReplicaTable,
    StoredColumn,
    log_orphans,
)
from rowcast.consumer.dialects.values import Converter, RowReader
from rowcast.consumer.layouts import Layout
from rowcast.shared.shapes import PortableType
from rowcast.shared.types import engine_family

_SESSION = (
    # A value that does not fit is an error, never cut; 0 is a key like any other.
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION'",
    "SET SESSION time_zone = '+00:00'",
    # Locks only the rows that are there: readers and other writers of the replica are in the way less often.
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
)

_MARIADB_TYPES = dict.fromkeys(("inet4", "inet6", "uuid"), sa.types.NullType)

_DEADLOCK, _LOCK_WAIT = 1213, 1205
_GONE = frozenset((1927, 2002, 2003, 2006, 2013, 2014, 2055, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 4031))
_BAD_NULL = 1048
_MISSING_PARENT, _DUPLICATE = (1452, 1216), (1062, 1586)

_KEYS_PER_DELETE = 1_000

# The driver makes one statement of many rows.
_WRITE_POSITION = (
    "INSERT INTO rowcast_position (source, topic, `partition`, next_offset, lsn) VALUES (%s, %s, %s, %s, %s) "
    "ON DUPLICATE KEY UPDATE next_offset = VALUES(next_offset), lsn = VALUES(lsn)"
)

_Statement = tuple[str, RowReader]


class MySQLReplica(ReplicaDialect):
    """Foreign keys are off by explicit right while the replica loads, and on when it is consistent."""

    name = "mysql"
    suspends_foreign_keys = True

    def __init__(self) -> None:
        self._upserts: dict[tuple[ReplicaTable, Layout], _Statement] = {}
        self._deletes: dict[tuple[ReplicaTable, Layout], _Statement] = {}
        self._consistent = False

    def configure(self, engine: Engine) -> None:
        # SQLAlchemy warns of types that it does not know under this dialect's name, whenever it looks at a table.
        known = engine.dialect.ischema_names  # type: ignore[attr-defined]
        engine.dialect.ischema_names = _MARIADB_TYPES | known  # type: ignore[attr-defined]

        @event.listens_for(engine, "connect")
        def session(connection: object, _record: object) -> None:
            cursor = connection.cursor()  # type: ignore[attr-defined]
            for statement in _SESSION:
                cursor.execute(statement)
            cursor.close()

    def stored_columns(self, connection: Connection, schema: str | None, name: str) -> dict[str, StoredColumn]:
        rows = connection.execute(
            sa.text(
                "SELECT column_name, column_type, is_nullable, extra, collation_name FROM information_schema.columns "
                "WHERE table_schema = database() AND table_name = :name ORDER BY ordinal_position"
            ),
            {"name": name},
        )
        return {
            r[0]: StoredColumn(r[0], r[1].lower(), r[2] == "YES", "GENERATED" in r[3].upper(), _likens(r[4]))
            for r in rows
        }

    def enter(self, connection: Connection, *, consistent: bool) -> None:
        self._consistent = consistent
        connection.exec_driver_sql(f"SET SESSION foreign_key_checks = {int(consistent)}")
        connection.rollback()  # ends what SQLAlchemy takes for a transaction; the setting stays

    def key_values(self, table: ReplicaTable, layout: Layout, keys: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        return _reader(table, layout, table.key).rows(keys)

    def upsert(self, connection: Connection, table: ReplicaTable, layout: Layout, images: Sequence[bytes]) -> None:
        if (table, layout) not in self._upserts:
            self._upserts[table, layout] = _upsert_statement(connection, table, layout)
        sql, reader = self._upserts[table, layout]
        connection.exec_driver_sql(sql, list(reader.rows(images)))

    def delete(self, connection: Connection, table: ReplicaTable, layout: Layout, keys: Sequence[bytes]) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        if (table, layout) not in self._deletes:
            likened = _likened(table, layout)
            where = [f"{quote(name)} = %s" for name in table.key]
            where += [f"{_bytes(quote(name))} = {_bytes('%s')}" for name in likened]
            self._deletes[table, layout] = (
                f"DELETE FROM {table.quoted} WHERE {' AND '.join(where)}",
                _reader(table, layout, [*table.key, *likened]),
            )
        sql, reader = self._deletes[table, layout]
        rows = list(reader.rows(keys))
        if len(table.key) > 1:
            # The server does not use an index for `(a, b) IN (…)`.
            connection.exec_driver_sql(sql, rows)
            return
        key = quote(table.key[0])
        for start in range(0, len(rows), _KEYS_PER_DELETE):
            some = tuple(row[0] for row in rows[start : start + _KEYS_PER_DELETE])
            marks = ", ".join(["%s"] * len(some))
            sql = f"DELETE FROM {table.quoted} WHERE {key} IN ({marks})"
            if _likened(table, layout):
                exact = ", ".join([_bytes("%s")] * len(some))
                sql, some = f"{sql} AND {_bytes(key)} IN ({exact})", some + some
            connection.exec_driver_sql(sql, some)

    def write_positions(self, connection: Connection, rows: Sequence[PositionRow]) -> None:
        connection.exec_driver_sql(_WRITE_POSITION, list(rows))

    def suspend_foreign_keys(self, connection: Connection) -> None:
        connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")

    def resume_foreign_keys(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"SET SESSION foreign_key_checks = {int(self._consistent)}")

    def _other_fault(self, error: exc.DBAPIError) -> Fault:
        number = _number(error)
        if number in (_DEADLOCK, _LOCK_WAIT):
            return Fault.PASSING
        if number in _GONE:
            return Fault.LOST
        return Fault.DATA

    def reason(self, error: exc.DBAPIError) -> str:
        reason = super().reason(error)
        if _number(error) == _BAD_NULL:
            return (
                "another row holds one of its unique values, or a key that this table's collation takes for the same "
                f"(make the table with a binary one, utf8mb4_nopad_bin, then), or {reason}"
            )
        return reason

    def rows_stand_in_the_way(self, error: exc.DBAPIError) -> bool:
        return _number(error) in _MISSING_PARENT + _DUPLICATE

    def check_foreign_keys(self, connection: Connection, tables: Sequence[ReplicaTable]) -> bool:
        """The user's own ones, that is: those that the worker makes are looked at when they are made."""
        well = True
        for table in tables:
            for key in sa.inspect(connection).get_foreign_keys(table.name):
                child = sa.table(table.name, *map(sa.column, key["constrained_columns"])).alias("child")
                parent = sa.table(key["referred_table"], *map(sa.column, key["referred_columns"])).alias("parent")
                pairs = list(zip(child.c, parent.c, strict=True))
                orphans = (
                    sa.select(sa.func.count())
                    .select_from(child.outerjoin(parent, sa.and_(*(c == p for c, p in pairs))))
                    .where(*(c.is_not(None) for c in child.c), next(iter(parent.c)).is_(None))
                )
                if count := connection.execute(orphans).scalar_one():
                    log_orphans(table.name, count, key["referred_table"])
                    well = False
        return well

    def drop_foreign_key(self, connection: Connection, table: ReplicaTable, name: str) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        connection.exec_driver_sql(f"ALTER TABLE {table.quoted} DROP FOREIGN KEY {quote(name)}")

    def drop_index(self, connection: Connection, table: ReplicaTable, name: str) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        connection.exec_driver_sql(f"DROP INDEX {quote(name)} ON {table.quoted}")

    def table_options(self, source_engine: str, dialect: Dialect) -> dict[str, Any]:
        options = {"engine": "InnoDB", "charset": "utf8mb4"}
        if engine_family(source_engine) != "mysql":
            # The other engines compare texts byte by byte, trailing spaces and all.
            mariadb = getattr(dialect, "is_mariadb", False)
            options["collate"] = "utf8mb4_nopad_bin" if mariadb else "utf8mb4_0900_bin"
        return {f"{dialect.name}_{name}": value for name, value in options.items()}


def _number(error: exc.DBAPIError) -> int:
    arguments = error.orig.args if error.orig is not None else ()
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0


def _upsert_statement(connection: Connection, table: ReplicaTable, layout: Layout) -> _Statement:
    """ON DUPLICATE KEY UPDATE also fires on secondary unique keys, and on a key that only a collation takes for the
    same (``a`` and ``A``), and would then change another key's row.

    There the key itself is set too: to what it is if the row found is the one that is meant, else to NULL, which no
    primary key takes, so that the statement fails as the conflict it is.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    names = table.taken(layout)
    changes = [f"{quote(name)} = VALUES({quote(name)})" for name in names if name not in table.key]
    first = quote(table.key[0])
    likened = _likened(table, layout)
    if table.other_unique or likened:
        pairs = {name: (f"{table.quoted}.{quote(name)}", f"VALUES({quote(name)})") for name in table.key}
        pairs |= {name: (_bytes(pairs[name][0]), _bytes(pairs[name][1])) for name in likened}
        same = " AND ".join(f"{stored} = {given}" for stored, given in pairs.values())
        changes.insert(0, f"{first} = IF({same}, VALUES({first}), NULL)")
    sql = (
        f"INSERT INTO {table.quoted} ({', '.join(quote(name) for name in names)}) "
        f"VALUES ({', '.join(['%s'] * len(names))}) "
        f"ON DUPLICATE KEY UPDATE {', '.join(changes) or f'{first} = {first}'}"
    )
    return sql, _reader(table, layout, names)


def _likens(collation: str | None) -> bool:
    """All but the binary collations that take no account of padding."""
    return collation is not None and not collation.endswith(("nopad_bin", "0900_bin"))


def _likened(table: ReplicaTable, layout: Layout) -> list[str]:
    """The key's columns of texts that the replica compares less strictly than byte by byte."""
    texts = ("string", "char", "text", "enum", "native")
    return [n for n in table.key if table.columns[n].likens and layout.shape.column(n).type.name in texts]


def _bytes(sql: str) -> str:
    """A text for a comparison byte by byte."""
    return f"BINARY CONVERT({sql} USING utf8mb4)"


def _reader(table: ReplicaTable, layout: Layout, names: Sequence[str]) -> RowReader:
    shape = layout.shape
    return RowReader([(n, _converter(shape.column(n).type, table.columns[n].type, shape.engine)) for n in names])


def _converter(portable: PortableType, stored: str, source: str = "") -> Converter | None:
    if stored.startswith("bit"):
        return int
    is_text = "text" in stored or "char" in stored
    match portable.name:
        case "decimal" if stored.startswith("decimal"):
            return values.scaled(int(stored.partition(",")[2].partition(")")[0]))
        case "char" if stored.startswith("char"):
            # The column has no padding; a key with it would not be found.
            return values.unpadded
        case "float32" | "float64" | "decimal" if not is_text:
            return values.finite
        case "string" | "char" | "text" | "enum" | "native" | "interval" | "timetz" if "char" in stored:
            most = values.characters(stored)
            # What the primary itself limits fits; SQLite limits nothing.
            if most is not None and (not portable.length or portable.length > most or source == "sqlite"):
                return values.no_longer_than(most)
            return None
        case "decimal" if "char" in stored:
            return values.no_longer_than(values.characters(stored) or 0)
    return values.common_converter(portable, stored)
