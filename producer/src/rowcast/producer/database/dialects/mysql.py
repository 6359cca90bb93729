"""Capture on MariaDB and MySQL, whose SQL is nearly equal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.pool import PoolProxiedConnection

from rowcast.producer.database.dialects import mysql_reads, transaction_ids
from rowcast.producer.database.dialects.base import CaptureDialect, Query, fetch_unseen, has_long_values
from rowcast.producer.database.dialects.keys import NO_LIMIT, MySQLKeys
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT, UNTRANSLATED
from rowcast.shared.database.driver_errors import mysql_number
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import PortableType

_AUTOCOMMIT = "rowcast_autocommit"
_IN_TRANSACTION = 1
"""The flag in the server's status of an open transaction."""
_DEADLOCK = 1213
_LOCK_TIMEOUT = 1205
_TOO_LONG = 1301
"""The error of a strict session in place of NULL."""
_NO_LIMIT: ColumnElement[int] = sa.literal_column(NO_LIMIT, sa.BigInteger)
_NOT_LONGER_AS_UTF8 = ("utf8mb4", "utf8mb3", "utf8", "ascii")
_TIMEOUT_ENDS = "SELECT @@innodb_rollback_on_timeout"
_STORAGE_WITHOUT_TRANSACTIONS = sa.text(
    "SELECT t.engine FROM information_schema.tables AS t JOIN information_schema.engines AS e ON e.engine = t.engine "
    "WHERE t.table_schema = :schema AND t.table_name = :name AND coalesce(e.transactions, 'NO') <> 'YES'"
)


_COLUMN_NAMES = sa.text(
    "SELECT column_name FROM information_schema.columns "
    f"WHERE table_schema = coalesce(:schema, DATABASE()) AND table_name = :name LIMIT {NO_LIMIT}"
)
_USE = re.compile(r"\s*(?:(?:--[^\n]*\n|\#[^\n]*\n|/\*.*?\*/)\s*)*use\b", re.IGNORECASE | re.DOTALL)
_CURRENT_DATABASE = sa.text(
    "SELECT DATABASE(), (SELECT count(*) FROM information_schema.tables "
    "WHERE table_schema = DATABASE() AND table_name = 'rowcast_outbox')"
)


class MySQLCapture(CaptureDialect):
    """Capture on MariaDB and MySQL."""

    keys = MySQLKeys()
    reports_insert_id = True
    draws_key_for_zero = True
    backslash_escapes = True
    hides_long_texts = True
    commits_implicitly = True
    folds_column_names = True
    retry_isolation = "REPEATABLE READ"
    # In UTC no time comes twice in autumn.
    row_settings = ("time_zone = '+00:00'",)
    # MariaDB and MySQL read a whole table where an IN list names many of its rows, and a DELETE that reads the whole
    # table waits for every uncommitted insert. The join goes by primary key.
    rows_by_ids = (
        "FROM JSON_TABLE(:ids, '$[*]' COLUMNS (id BIGINT PATH '$')) AS ids "
        "STRAIGHT_JOIN rowcast_outbox AS o ON o.id = ids.id"
    )
    delete_rows = "DELETE o"

    def is_autocommit(self, pooled: PoolProxiedConnection) -> bool:
        driver: Any = pooled.driver_connection
        if not hasattr(driver, "get_autocommit"):
            # Drivers without ``get_autocommit`` may send a query. Therefore the answer is kept for each connection.
            if _AUTOCOMMIT not in pooled.info:
                pooled.info[_AUTOCOMMIT] = bool(driver.autocommit)
            return bool(pooled.info[_AUTOCOMMIT])
        return bool(driver.get_autocommit()) and not getattr(driver, "server_status", 0) & _IN_TRANSACTION

    def fits(self, column: sa.Column[Any], type_: PortableType) -> ColumnElement[bool] | None:
        if not has_long_values(type_):
            return None
        size: ColumnElement[Any] = sa.func.octet_length(column)
        if type_.name == "bytes":
            # Base64 with its line feeds.
            size = size * _number("1.4")
        else:
            is_utf8 = sa.func.charset(column).in_([sa.literal_column(f"'{name}'") for name in _NOT_LONGER_AS_UTF8])
            size = size * sa.case((is_utf8, _number("1")), else_=_number("4"))
        # SQLAlchemy 2.1 warns of every operator on a BIT.
        is_null = sa.type_coerce(column, sa.LargeBinary).is_(sa.null())
        return sa.or_(is_null, size <= sa.literal_column("@@max_allowed_packet", sa.BigInteger))

    def is_too_long(self, error: exc.DBAPIError) -> bool:
        return mysql_number(error) == _TOO_LONG

    def has_ended_at(self, connection: Connection, error: exc.DBAPIError) -> bool:
        number = mysql_number(error)
        return number == _DEADLOCK or (number == _LOCK_TIMEOUT and bool(fetch_unseen(connection, _TIMEOUT_ENDS)[0][0]))

    def storage_without_transactions(self, connection: Connection, schema: str, name: str) -> str | None:
        where = {"schema": schema, "name": name}
        found = connection.execute(_STORAGE_WITHOUT_TRANSACTIONS, where, execution_options=INTERNAL_STATEMENT)
        return found.scalar()

    def now_ms(self) -> ColumnElement[int]:
        # UNIX_TIMESTAMP would depend on the session's time zone, in which an hour in autumn comes twice.
        return sa.literal_column("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000", sa.BigInteger)

    def without_row_limit(self, query: Query) -> Query:
        # The setting sql_select_limit holds for queries without a limit.
        return query if query._limit_clause is not None else query.limit(_NO_LIMIT)

    def read_as_update(self, connection: Connection, query: sa.Select[Any], table: Any) -> sa.Select[Any]:
        return mysql_reads.read_as_update(connection, query, table)

    def trigger_transaction_id(self, connection: Connection) -> str | None:
        return transaction_ids.innodb_id(connection)

    def may_change_schema(self, sql: str, parameters: Any) -> bool:
        return _USE.match(sql) is not None

    def schema_of(self, connection: Connection, name: str) -> tuple[str | None, bool]:
        row = connection.execute(_CURRENT_DATABASE, execution_options={**UNTRANSLATED, **INTERNAL_STATEMENT}).one()
        return row[0], bool(row[1])

    def placed_text(self, text: ColumnElement[str], tables: Sequence[sa.Table], dialect: Dialect) -> ColumnElement[str]:
        if not tables or dialect.default_schema_name is None:
            return text
        default = "'" + dialect.default_schema_name.replace("\\", "\\\\").replace("'", "''") + "'"
        return sa.case((sa.literal_column(f"DATABASE() <=> {default}", sa.Boolean), text))

    def changed_schema(self, connection: Connection, error: exc.DBAPIError | None) -> str | None:
        if error is not None:
            return None
        current, _ = self.schema_of(connection, "")
        return None if current == connection.dialect.default_schema_name else str(current)

    def insert_unless_there(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> sa.Insert:
        first = next(iter(table.primary_key.columns))
        return mysql.insert(table).values(rows).on_duplicate_key_update({str(first.name): first})

    def recurse_deeply(self, query: sa.Select[Any]) -> sa.Select[Any]:
        # MySQL fails at 1,000 levels. MariaDB stops there without an error, and does not read the hint.
        return query.prefix_with("/*+ SET_VAR(cte_max_recursion_depth = 4294967295) */")

    def column_names(self, connection: Connection, table: sa.Table) -> set[str]:
        # SQLAlchemy reads SHOW CREATE TABLE, which has other quotes under the SQL mode ANSI_QUOTES.
        place = {"schema": table.schema, "name": table.name}
        return set(connection.scalars(_COLUMN_NAMES, place, execution_options=INTERNAL_STATEMENT))

    def folded_table_name(self, name: str, dialect: Dialect) -> str:
        # A setting of the server, lower_case_table_names.
        return name.lower() if getattr(dialect, "_casing", None) else name

    def prepare_writer(self, connection: Connection, idle_ms: int) -> None:
        # MySQL has no such setting.
        if getattr(connection.dialect, "is_mariadb", False):
            connection.exec_driver_sql(f"SET SESSION idle_transaction_timeout = {math.ceil(idle_ms / 1000):d}")

    def group_by_sorting(self, query: sa.Select[Any]) -> sa.Select[Any]:
        # Grouping without sorting writes a temporary table to the disk, and takes ten times as long.
        return query.prefix_with("SQL_BIG_RESULT")

    def time_digits(self, type_: PortableType) -> int:
        found = re.search(r"\((\d)\)", type_.native)
        return int(found[1]) if found else 0

    def reflects_type(self, type_name: str) -> bool:
        # A boolean is a number there.
        return type_name != "boolean"

    def trigger_dialect(self, dialect: Dialect) -> str:
        if not getattr(dialect, "is_mariadb", False):
            raise ConfigurationError(
                "rowcast's triggers need MariaDB 10.3 or later. A trigger of MySQL cannot know its transaction, so its "
                "changes could not be published as whole transactions. Capture by listeners instead."
            )
        return "rowcast.producer.triggers.mariadb:MariaDBTriggers"


def _number(text: str) -> ColumnElement[Any]:
    return sa.literal_column(text, sa.Numeric)
