"""Capture on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, Connection, Dialect
from sqlalchemy.pool import PoolProxiedConnection

from rowcast.producer.database.dialects import transaction_ids
from rowcast.producer.database.dialects.base import CaptureDialect, fetch_unseen
from rowcast.producer.database.dialects.keys import SQLiteKeys
from rowcast.shared.images import register_functions
from rowcast.shared.tables.shape import PortableType

_HAS_FUNCTIONS = "rowcast"
# Newer versions mark the functions as innocuous (SQLITE_INNOCUOUS), and allow them in any schema.
_FORBIDS_JSON = (
    "SELECT 1 FROM pragma_trusted_schema AS p WHERE NOT p.trusted_schema AND NOT EXISTS "
    "(SELECT 1 FROM pragma_function_list WHERE name = 'json_object' AND flags & 0x200000)"
)


class SQLiteCapture(CaptureDialect):
    """Capture on SQLite: one writer at a time, in the application's own process."""

    keys = SQLiteKeys()
    has_row_locks = False
    folds_column_names = True
    executes_one_by_one = True
    keeps_rowcount = True
    has_transaction_token = True
    writer_isolation = None
    snapshot_isolation = None
    enforces_types = False
    # A uuid may be stored with or without hyphens.
    types_found_by_event_value = CaptureDialect.types_found_by_event_value - {"uuid"}
    rows_by_ids = "FROM rowcast_outbox AS o WHERE o.id IN (SELECT value FROM json_each(:ids))"

    def is_autocommit(self, pooled: PoolProxiedConnection) -> bool:
        driver = _sqlite3_connection(pooled)
        begins_no_transaction = driver.isolation_level is None or getattr(driver, "autocommit", False) is True
        # An application may begin transactions itself: https://docs.sqlalchemy.org/dialects/sqlite.html
        return begins_no_transaction and not driver.in_transaction

    def begins_at_savepoint(self, pooled: PoolProxiedConnection) -> bool:
        # The driver begins a transaction before DML, and not before a savepoint.
        return not _sqlite3_connection(pooled).in_transaction

    def is_too_long(self, error: exc.DBAPIError) -> bool:
        return getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_TOOBIG

    def has_ended_at(self, connection: Connection, error: exc.DBAPIError) -> bool:
        # INSERT OR ROLLBACK, a full disk and a few other errors roll back.
        return not _sqlite3_connection(connection.connection).in_transaction

    def now_ms(self) -> ColumnElement[int]:
        return sa.literal_column("CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)", sa.BigInteger)

    def lock_for_reading(self, connection: Connection, table: Any, options: Mapping[str, Any]) -> None:
        # The driver begins the transaction with the first change. This DELETE changes nothing, and takes the only write
        # lock of the database.
        connection.execute(sa.delete(table).where(sa.false()), execution_options=options)

    def trigger_transaction_id(self, connection: Connection) -> str | None:
        return transaction_ids.use_token(connection)

    def ensure_functions(self, connection: Connection) -> None:
        if _HAS_FUNCTIONS not in connection.info:
            register_functions(connection.connection.dbapi_connection)
            connection.info[_HAS_FUNCTIONS] = True

    def insert_unless_there(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> sa.Insert:
        return sqlite.insert(table).values(rows).on_conflict_do_nothing()

    def folded_table_name(self, name: str, dialect: Dialect) -> str:
        return name.lower()

    def begin_snapshot(self, connection: Connection) -> None:
        # The driver begins no transaction before a read.
        connection.exec_driver_sql("BEGIN")

    def byte_length(self, text: ColumnElement[Any]) -> ColumnElement[int]:
        return sa.func.length(sa.cast(text, sa.LargeBinary))

    def time_digits(self, type_: PortableType) -> int:
        return 6

    def reflects_type(self, type_name: str) -> bool:
        # A column's type says little about its values.
        return False

    def database_name(self, url: URL) -> str:
        return Path(url.database or "").stem

    def hindrance_to_triggers(self, connection: Connection) -> str | None:
        if not fetch_unseen(connection, _FORBIDS_JSON):
            return None
        return "PRAGMA trusted_schema = OFF forbids the functions of JSON in triggers, in this version of SQLite"

    def trigger_dialect(self, dialect: Dialect) -> str:
        return "rowcast.producer.triggers.sqlite:SQLiteTriggers"


def _sqlite3_connection(pooled: PoolProxiedConnection) -> Any:
    """Return the connection of sqlite3, also behind aiosqlite."""
    driver = pooled.driver_connection
    return getattr(driver, "_conn", driver)
