"""SQLite: one row in each statement and many rows in each call, because the engine runs inside the worker."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import ForeignKeyConstraint, event, exc
from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects import value_converters, value_limits
from rowcast.consumer.replica.dialects.capacities import Capacity
from rowcast.consumer.replica.dialects.claims import ClaimSession, NoClaim, SQLiteClaim
from rowcast.consumer.replica.dialects.orphans import log_orphans
from rowcast.consumer.replica.dialects.quoting import quoted_name
from rowcast.consumer.replica.dialects.replica_table import Loosening, ReplicaColumn, ReplicaTable, TableName
from rowcast.consumer.replica.dialects.row_statements import RowStatementReplica, Statement
from rowcast.consumer.replica.dialects.sqlite_rewrite import foreign_key_part, loosened_table
from rowcast.consumer.replica.dialects.type_capacities import sqlite_capacity
from rowcast.consumer.replica.dialects.value_converters import Converter
from rowcast.shared.images import register_functions
from rowcast.shared.tables.shape import PortableType


class SQLiteReplica(RowStatementReplica):
    """Write to SQLite. Foreign keys are part of the tables and are switched on when the replica is consistent."""

    name = "sqlite"
    foreign_keys_in_table = True
    has_concurrent_writers = False
    folds_table_names = True
    counts_written_rows = True
    rewrites_tables = True
    write_position = (
        "INSERT INTO rowcast_position (source, topic, partition, next_offset, lsn, topic_id) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (source, topic, partition) DO UPDATE "
        "SET next_offset = excluded.next_offset, lsn = excluded.lsn, topic_id = excluded.topic_id"
    )
    value_limits = (
        value_limits.NO_NAN,
        value_limits.NO_DECIMAL_NAN,
        value_limits.NO_DISTANT_DATES,
        value_limits.NO_LONG_TIMES,
        value_limits.NO_MIDNIGHT_AS_24,
    )

    def configure(self, engine: Engine) -> None:
        """Begin every transaction as a writer."""

        @event.listens_for(engine, "connect")
        def disable_implicit_transactions(connection: object, _record: object) -> None:
            connection.isolation_level = None  # type: ignore[attr-defined]

        # The driver would begin at the first DML statement, and as a reader. A reader may find the lock taken when it
        # becomes a writer.
        @event.listens_for(engine, "begin")
        def begin_as_writer(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        @event.listens_for(engine, "handle_error")
        def roll_back_after_a_failed_commit(context: ExceptionContext) -> None:
            # SQLite leaves the transaction open if a deferred foreign key refuses COMMIT. SQLAlchemy takes the
            # transaction for ended, and the next BEGIN would fail.
            if context.statement is None and context.connection is not None:
                driver: Any = context.connection.connection.dbapi_connection
                if driver.in_transaction:
                    driver.rollback()

    def new_claim(self, url: URL, label: str, source: str, lease_s: float) -> ClaimSession:
        """Return a lock of a file beside the database."""
        database = url.database
        if not database or database == ":memory:" or database.startswith("file:"):
            return NoClaim()
        return SQLiteClaim(database, source, lease_s)

    def database_file(self, engine: Engine) -> tuple[int, int] | None:
        """Return device and inode of the file, or None for a missing file or a database in memory."""
        try:
            status = os.stat(engine.url.database or "")
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def configure_reader(self, engine: Engine) -> None:
        """Register the functions that row images need."""

        @event.listens_for(engine, "connect")
        def register_image_functions(connection: object, _record: object) -> None:
            register_functions(connection)

    def read_columns(self, connection: Connection, schema: str | None, name: str) -> dict[str, ReplicaColumn]:
        """Return the table's columns by name."""
        rows = connection.exec_driver_sql(f"PRAGMA table_xinfo({quoted_name(connection, None, name)})")
        return {
            r[1]: ReplicaColumn(r[1], r[2].lower(), not r[3] and not r[5], r[6] in (2, 3), default=r[4] or "")
            for r in rows
        }

    def loosen(self, connection: Connection, loosening: Loosening) -> Iterator[str]:
        """Yield the statements that write the table again. Raise ConfigurationError for a table with more definitions.

        The worker's tables have columns with types, NOT NULL and defaults, a primary key and foreign keys.
        """
        yield from loosened_table(connection, loosening)

    def foreign_key_addition(self, connection: Connection, key: ForeignKeyConstraint) -> list[str]:
        """Return the statements that write the table again with a foreign key. Raise ConfigurationError as ``loosen``.

        SQLite does not check the rows.
        """
        name = key.table.name
        loosening = Loosening((None, name), self.read_columns(connection, None, name))
        referred = [element.column.name for element in key.elements]
        new = foreign_key_part(connection, str(key.name), key.column_keys, key.referred_table.name, referred)
        return loosened_table(connection, loosening, [new])

    def read_triggers(self, connection: Connection, names: Collection[TableName]) -> Iterator[tuple[TableName, str]]:
        """Yield the triggers of these tables."""
        folded = {name[1].lower(): name for name in names}
        for table, trigger in connection.exec_driver_sql(_TRIGGERS):
            if table in folded:
                yield folded[table], trigger

    def is_limit(self, error: exc.DBAPIError) -> bool:
        """Return whether the table has too many columns, or two whose names differ only in case."""
        return str(error.orig).startswith(("too many columns", "duplicate column name"))

    def capacity(self, column_type: str) -> Capacity | None:
        """Return what a column of a type holds."""
        return sqlite_capacity(column_type)

    def set_consistency(self, connection: Connection, *, consistent: bool) -> None:
        """Switch foreign keys on or off."""
        # The PRAGMA does nothing within a transaction, and SQLAlchemy would begin one for any statement.
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.cursor().execute(f"PRAGMA foreign_keys = {'ON' if consistent else 'OFF'}")

    def defer_foreign_keys(self, connection: Connection) -> None:
        """Check foreign keys at the end of the transaction."""
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")

    def converter(self, portable: PortableType, column_type: str, source_engine: str) -> Converter | None:
        """Return the converter for a column of this type, or None if the JSON value is the stored value."""
        return converter(portable, column_type, source_engine)

    def upsert_statement(self, connection: Connection, table: ReplicaTable, layout: RowLayout) -> Statement:
        """Return an INSERT … ON CONFLICT DO UPDATE."""
        quote = connection.dialect.identifier_preparer.quote_identifier
        names = table.writable_columns(layout)
        changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in names if name not in table.key)
        action = f"UPDATE SET {changes}" if changes else "NOTHING"
        sql = (
            f"INSERT INTO {table.quoted} ({', '.join(quote(name) for name in names)}) "
            f"VALUES ({', '.join('?' * len(names))}) "
            f"ON CONFLICT ({', '.join(quote(name) for name in table.key)}) DO {action}"
        )
        return sql, names

    def delete_statement(self, connection: Connection, table: ReplicaTable, layout: RowLayout) -> Statement:
        """Return a DELETE for a single row."""
        quote = connection.dialect.identifier_preparer.quote_identifier
        where = " AND ".join(f"{quote(name)} = ?" for name in table.key)
        return f"DELETE FROM {table.quoted} WHERE {where}", table.key

    def is_violated_by_rows(self, error: exc.DBAPIError) -> bool:
        """Return whether rows prevented a constraint."""
        return isinstance(error, exc.IntegrityError)

    def check_foreign_keys(self, connection: Connection, tables: Sequence[ReplicaTable]) -> bool:
        """Return whether the rows satisfy all foreign keys, and warn of each violation."""
        violations = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        for (table, parent), count in Counter((row[0], row[2]) for row in violations).items():
            log_orphans(table, count, parent)
        return not violations


_TRIGGERS = "SELECT lower(tbl_name), name FROM sqlite_master WHERE type = 'trigger' ORDER BY 1, 2"


def converter(portable: PortableType, column_type: str, source_engine: str = "") -> Converter | None:
    """Return the converter for a column of this type, or None if the JSON value is the stored value."""
    if source_engine == "sqlite":
        return _converter_from_sqlite(portable, column_type)
    if "text" in column_type or "char" in column_type:
        is_number = portable.name in ("decimal", "uint64")
        return str if is_number else value_converters.common_converter(portable, column_type)
    if portable.name in ("decimal", "uint64"):
        return value_converters.sqlite_exact_number if column_type else value_converters.sqlite_number_or_text
    if portable.name in _FROM_OTHERS:
        return _FROM_OTHERS[portable.name]
    return value_converters.common_converter(portable, column_type)


_FROM_OTHERS: dict[str, Converter] = {
    "float32": value_converters.sqlite_float,
    "float64": value_converters.sqlite_float,
    "time": value_converters.time_text,
}

# In an SQLite database, a value may differ from the declared type of the column.
_FROM_SQLITE: dict[str, Converter | None] = {
    "float32": value_converters.sqlite_own_number,
    "float64": value_converters.sqlite_own_number,
    "decimal": value_converters.sqlite_own_number,
    "timestamp": value_converters.sqlite_own_timestamp,
    "timestamptz": value_converters.sqlite_own_timestamptz,
    "boolean": None,
    "date": None,
}


def _converter_from_sqlite(portable: PortableType, column_type: str) -> Converter | None:
    if portable.name == "json" and column_type == "json":
        # A column of this type has turned number-like documents into numbers.
        return value_converters.sqlite_own_number
    if portable.name in _FROM_SQLITE:
        return _FROM_SQLITE[portable.name]
    return value_converters.common_converter(portable, column_type)
