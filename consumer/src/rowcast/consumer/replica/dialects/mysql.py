"""MariaDB and MySQL: many rows in each statement, foreign keys checked row by row."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL, Connection, Dialect, Engine

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects import value_converters, value_limits
from rowcast.consumer.replica.dialects.base import LOCK_S, WORKER_PREFIX, TouchedKeys, default_change
from rowcast.consumer.replica.dialects.capacities import Capacity
from rowcast.consumer.replica.dialects.claims import ClaimSession, MySQLClaim
from rowcast.consumer.replica.dialects.default_sql import MYSQL_LONG
from rowcast.consumer.replica.dialects.mysql_columns import column_definitions
from rowcast.consumer.replica.dialects.mysql_packets import Packets
from rowcast.consumer.replica.dialects.orphans import count_orphans, log_orphans
from rowcast.consumer.replica.dialects.quoting import for_driver, quoted_name
from rowcast.consumer.replica.dialects.replica_table import Loosening, ReplicaColumn, ReplicaTable, TableName
from rowcast.consumer.replica.dialects.row_statements import RowStatementReplica, Statement
from rowcast.consumer.replica.dialects.touched_foreign_keys import TouchedForeignKeys, TouchedRows, foreign_keys_of
from rowcast.consumer.replica.dialects.type_capacities import mysql_capacity
from rowcast.consumer.replica.dialects.value_converters import Converter
from rowcast.consumer.replica.dialects.value_limits import PlannedColumn, ValueLimit
from rowcast.shared.database.driver_errors import mysql_number
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import PortableType

_log = logging.getLogger("rowcast.worker")

_SESSION = (
    # An oversized value is an error and is never cut. 0 is an ordinary key.
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION'",
    "SET SESSION time_zone = '+00:00'",
    # Lock only existing rows, to block further users of the replica less often.
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
)

# A user without further rights sees neither the locks of rows nor the sessions. Therefore the writing session also
# holds a lock with a name, and the lock shows the number of the session.
_WRITER_NAME = "CONCAT('rowcast-writer-', LEFT(SHA2(CONCAT(COALESCE(DATABASE(), ''), ' ', :source), 256), 40))"
_WRITER = sa.text(f"SELECT IS_USED_LOCK({_WRITER_NAME})")
_BECOME_WRITER = sa.text(f"SELECT GET_LOCK({_WRITER_NAME}, 10)")
_NO_SUCH_THREAD = 1094
# Seconds after which MariaDB ends an idle transaction. MySQL lacks the setting, and a successor ends the session.
_IDLE_TRANSACTION_S = 60
# A worker of a group looks at its replica every five seconds.
_LEAST_WAIT_S = 15

_WITHOUT_TRANSACTIONS = sa.text(
    "SELECT t.table_name, t.engine FROM information_schema.tables t JOIN information_schema.engines e "
    "ON e.engine = t.engine WHERE t.table_schema = database() AND t.table_name IN :names AND e.transactions <> 'YES' "
    "ORDER BY t.table_name"
).bindparams(sa.bindparam("names", expanding=True))

_MARIADB_TYPES = dict.fromkeys(("inet4", "inet6", "uuid"), sa.types.NullType)

_BAD_NULL = 1048
_MISSING_PARENT, _DUPLICATE = (1452, 1216), (1062, 1586)

_KEYS_PER_DELETE = 1_000
# MariaDB limits a row without its long values to 65,535 bytes. The rest is for columns of non-text types.
_MAX_TEXT_BYTES = 60_000
_CHARACTER_BYTES = 4
_MAX_KEY_BYTES = 3_072
# No type of a key's column takes more bytes, besides texts and binary values.
_NUMBER_BYTES = 128


def _is_mariadb_uuid(column: PlannedColumn) -> bool:
    return column.ddl == "UUID"


def _is_cut_as_key(column: PlannedColumn) -> bool:
    length = getattr(column.type, "length", None)
    return column.is_key and length is not None and not 0 < (column.shape.type.length or 0) <= length


class MySQLReplica(RowStatementReplica):
    """Write to MariaDB or MySQL. Foreign keys are off while the replica loads, and on when it is consistent."""

    name = "mysql"
    refuses_large_integers = True
    longest_name = 64
    suspends_foreign_keys = True
    has_transactional_ddl = False
    checks_values = True
    # The driver makes one statement of many rows.
    write_position = (
        "INSERT INTO rowcast_position (source, topic, `partition`, next_offset, lsn, topic_id) "
        "VALUES (%s, %s, %s, %s, %s, %s) "
        "ON DUPLICATE KEY UPDATE next_offset = VALUES(next_offset), lsn = VALUES(lsn), topic_id = VALUES(topic_id)"
    )
    value_limits = (
        value_limits.NO_NAN,
        ValueLimit("infinite numbers", value_limits.FLOATS),
        value_limits.NO_DECIMAL_NAN,
        ValueLimit(
            "more digits after the point than the column says",
            frozenset(("decimal",)),
            frozenset(("sqlite",)),
            value_limits.is_decimal_column,
        ),
        value_limits.NO_DISTANT_DATES,
        ValueLimit(
            "UUIDs that MariaDB takes for malformed (a version above 7 without the variant of RFC 9562)",
            frozenset(("uuid",)),
            condition=_is_mariadb_uuid,
        ),
        ValueLimit("texts longer than the column of the key", value_limits.TEXTS, condition=_is_cut_as_key),
    )

    def __init__(self) -> None:
        super().__init__()
        self._consistent = False
        self._packets = Packets()
        self._is_mariadb = False

    def configure(self, engine: Engine) -> None:
        """Set the session up, and teach SQLAlchemy the types that only MariaDB has."""
        # SQLAlchemy would warn of these types at every inspection if the URL says mysql.
        known = engine.dialect.ischema_names  # type: ignore[attr-defined]
        engine.dialect.ischema_names = _MARIADB_TYPES | known  # type: ignore[attr-defined]

        @event.listens_for(engine, "connect")
        def set_up_session(connection: object, _record: object) -> None:
            cursor = connection.cursor()  # type: ignore[attr-defined]
            for statement in _SESSION:
                cursor.execute(statement)
            cursor.execute("SELECT VERSION(), @@lower_case_table_names")
            version, folds = cursor.fetchone()
            self.folds_table_names = bool(folds)
            self._is_mariadb = "mariadb" in str(version).lower()
            if self._is_mariadb:
                cursor.execute(f"SET SESSION idle_transaction_timeout = {_IDLE_TRANSACTION_S:d}")
            cursor.close()
            self._packets.set_up(connection)

    def new_claim(self, url: URL, label: str, source: str, lease_s: float) -> ClaimSession:
        """Return a session with a lock of GET_LOCK."""
        return MySQLClaim(open_engine(url, label, pooled=False, isolation_level="AUTOCOMMIT"), source, lease_s)

    def end_silent_transactions(self, connection: Connection, seconds: float) -> None:
        """Let the server end the session. MySQL does so without an open transaction too."""
        name, least_s = ("idle_transaction_timeout", 1) if self._is_mariadb else ("wait_timeout", _LEAST_WAIT_S)
        connection.exec_driver_sql(f"SET SESSION {name} = {max(math.ceil(seconds), least_s):d}")
        connection.rollback()

    def end_other_writers(self, connection: Connection, source: str) -> None:
        """Kill the session with the writer's lock, and take the lock for this session."""
        with connection.begin():
            thread = connection.execute(_WRITER, {"source": source}).scalar()
            own = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar()
            if thread is not None and thread != own:
                _log.warning("ending the session %d of an earlier worker, which may lock the replica", thread)
                try:
                    connection.exec_driver_sql(f"KILL {int(thread):d}")
                except exc.DBAPIError as error:
                    if mysql_number(error) != _NO_SUCH_THREAD:
                        raise
            connection.execute(_BECOME_WRITER, {"source": source})

    def read_columns(self, connection: Connection, schema: str | None, name: str) -> dict[str, ReplicaColumn]:
        """Return the table's columns by name."""
        return {
            name: ReplicaColumn(name, c.type.lower(), c.nullable, c.is_generated, _is_loose(c.collation), c.type,
                                "auto_increment" if c.is_numbered else c.default, c.attributes)
            for name, c in column_definitions(connection, name).items()
        }  # fmt: skip

    def read_triggers(self, connection: Connection, names: Collection[TableName]) -> Iterator[tuple[TableName, str]]:
        """Yield the triggers of these tables. The server shows triggers to users with the right TRIGGER only."""
        for table, trigger in connection.execute(_TRIGGERS):
            if (None, table) in names:
                yield (None, table), trigger

    def is_limit(self, error: exc.DBAPIError) -> bool:
        """Return whether the server refuses names, the number of columns or keys, or the size of a row or key."""
        number = mysql_number(error)
        return number in _LIMITS or (number == _CANNOT_CREATE and _TOO_MANY_COLUMNS in str(error.orig))

    def capacity(self, column_type: str) -> Capacity | None:
        """Return what a column of a type holds."""
        return mysql_capacity(column_type)

    def type_change(self, connection: Connection, table: str, column: ReplicaColumn, type_: str) -> str | None:
        """Return the statement that gives a column another type."""
        return self._modify(connection, table, column, type_, "NULL" if column.nullable else "NOT NULL", column.default)

    @staticmethod
    def _modify(connection: Connection, table: str, column: ReplicaColumn, type_: str, null: str, default: str) -> str:
        more = f" DEFAULT {for_driver(connection, default)}" if default else ""
        return f"ALTER TABLE {table} MODIFY COLUMN {quoted_name(connection, None, column.name)} {type_} {null}{more}"

    def column_obstacles(self, connection: Connection, table: str, column: str) -> list[str]:
        """Return the statements that drop foreign keys, because the server refuses to change the column otherwise."""
        return self._foreign_key_drops(connection, table, [column])

    def _foreign_key_drops(self, connection: Connection, table: str, columns: Collection[str]) -> list[str]:
        """Return the statements that drop the worker's foreign keys with any of the columns, on either side."""
        return [
            self.foreign_key_drop(connection, (None, key.table), key.name)
            for key in foreign_keys_of(connection, table)
            if key.name.startswith(WORKER_PREFIX) and any(key.has_column(table, column) for column in columns)
        ]

    def loosen(self, connection: Connection, loosening: Loosening) -> Iterator[str]:
        """Yield the statements. MODIFY needs the whole definition of a column."""
        quoted = quoted_name(connection, *loosening.table)
        drops = [self.foreign_key_drop(connection, loosening.table, name) for name in loosening.foreign_keys]
        drops += self._foreign_key_drops(connection, loosening.table[1], loosening.nullable)
        yield from dict.fromkeys(drops)
        for name in loosening.nullable:
            column = loosening.columns[name]
            type_ = " ".join(filter(None, (for_driver(connection, column.stored), column.attributes)))
            yield self._modify(connection, quoted, column, type_, "NULL", column.default)
        for name, sql in loosening.defaults.items():
            column = loosening.columns[name]
            if sql and MYSQL_LONG.match(column.type):
                # ALTER COLUMN takes a text in parentheses for something else.
                type_ = " ".join(filter(None, (for_driver(connection, column.stored), column.attributes)))
                yield self._modify(connection, quoted, column, type_, "NULL" if column.nullable else "NOT NULL", sql)
            else:
                change = default_change(connection, sql)
                yield f"ALTER TABLE {quoted} ALTER COLUMN {quoted_name(connection, None, name)} {change}"

    @contextmanager
    def bounded_lock_waits(self, connection: Connection) -> Iterator[None]:
        """Limit the wait for a metadata lock, because every later reader of the table waits behind the change."""
        connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {LOCK_S:d}")
        try:
            yield
        finally:
            if not connection.invalidated:
                connection.exec_driver_sql("SET SESSION lock_wait_timeout = DEFAULT")

    def set_consistency(self, connection: Connection, *, consistent: bool) -> None:
        """Switch foreign keys on or off."""
        self._consistent = consistent
        connection.exec_driver_sql(f"SET SESSION foreign_key_checks = {int(consistent)}")
        connection.rollback()  # Ends the transaction that SQLAlchemy has begun. The setting stays.

    def converter(self, portable: PortableType, column_type: str, source_engine: str) -> Converter | None:
        """Return the converter for a column of this type, or None if the JSON value is the stored value."""
        return converter(portable, column_type, source_engine)

    def check_rows(
        self, connection: Connection, sql: str, documents: Sequence[bytes], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Raise ValueError if a row is longer than the server accepts."""
        self._packets.require_fitting(connection, sql, documents, rows)

    def require_transactions(self, connection: Connection, names: Sequence[str]) -> None:
        """Raise ConfigurationError if the storage engine of a table has no transactions."""
        rows = connection.execute(_WITHOUT_TRANSACTIONS, {"names": names}).all()
        for table, storage_engine in rows:
            ddl = f"ALTER TABLE {quoted_name(connection, None, table)} ENGINE = InnoDB"
            raise ConfigurationError(
                f"the replica's table {table}: its storage engine {storage_engine} has no transactions, so a batch "
                f"that fails would stay in part. Run: {ddl}"
            )

    def upsert_statement(self, connection: Connection, table: ReplicaTable, layout: RowLayout) -> Statement:
        """Return an INSERT … ON DUPLICATE KEY UPDATE, with a guard if necessary.

        ON DUPLICATE KEY UPDATE also finds a row by another unique key, or by a primary key that only the collation
        takes for equal (``a`` and ``A``). The statement would then change the row of another key.
        """
        quote = connection.dialect.identifier_preparer.quote_identifier
        names = table.writable_columns(layout)
        changes = [f"{quote(name)} = VALUES({quote(name)})" for name in names if name not in table.key]
        first = quote(table.key[0])
        if table.other_unique or _loose_key_columns(table, layout):
            changes.insert(0, _key_guard(connection, table, layout))
        sql = (
            f"INSERT INTO {table.quoted} ({', '.join(quote(name) for name in names)}) "
            f"VALUES ({', '.join(['%s'] * len(names))}) "
            f"ON DUPLICATE KEY UPDATE {', '.join(changes) or f'{first} = {first}'}"
        )
        return sql, names

    def delete_statement(self, connection: Connection, table: ReplicaTable, layout: RowLayout) -> Statement:
        """Return a DELETE for a single row. Parameters are the key, and the loose columns of the key once more."""
        quote = connection.dialect.identifier_preparer.quote_identifier
        loose = _loose_key_columns(table, layout)
        where = [f"{quote(name)} = %s" for name in table.key]
        where += [f"{_bytes(quote(name))} = {_bytes('%s')}" for name in loose]
        return f"DELETE FROM {table.quoted} WHERE {' AND '.join(where)}", [*table.key, *loose]

    def delete(self, connection: Connection, table: ReplicaTable, layout: RowLayout, keys: Sequence[bytes]) -> None:
        """Delete rows by primary key: with IN for a simple key, row by row for a composite key."""
        if len(table.key) > 1:
            # The server does not use an index for `(a, b) IN (…)`.
            super().delete(connection, table, layout, keys)
        else:
            rows = list(self.key_values(table, layout, keys))
            _delete_by_list(connection, table, layout, rows, self._packets.keys_per_statement(_KEYS_PER_DELETE))

    @contextmanager
    def foreign_keys_at_the_end(self, connection: Connection, touched: Sequence[TouchedKeys]) -> Iterator[None]:
        """Switch foreign keys off, and check the touched rows at the end. No row is checked while the replica loads."""
        rows = [TouchedRows(t.table.name, t.table.key, list(self.key_values(*t))) for t in touched]
        foreign_keys = TouchedForeignKeys(connection, rows if self._consistent else ())
        connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        try:
            yield
            foreign_keys.require_parents()
        finally:
            if not connection.invalidated:
                connection.exec_driver_sql(f"SET SESSION foreign_key_checks = {int(self._consistent)}")

    def reason(self, error: exc.DBAPIError) -> str:
        """Return the server's message, with an explanation if the guard of ``_upsert_statement`` may be the cause."""
        reason = super().reason(error)
        if mysql_number(error) == _BAD_NULL:
            return (
                "another row has one of the row's unique values, or a key that this table's collation takes for the "
                f"same (then create the table with a binary collation, utf8mb4_nopad_bin), or {reason}"
            )
        return reason

    def is_violated_by_rows(self, error: exc.DBAPIError) -> bool:
        """Return whether rows prevented a constraint."""
        return mysql_number(error) in _MISSING_PARENT + _DUPLICATE

    def check_foreign_keys(self, connection: Connection, tables: Sequence[ReplicaTable]) -> bool:
        """Return whether the rows satisfy all foreign keys, and warn of each violation.

        Needed only for the user's foreign keys. The server checks the worker's foreign keys during creation.
        """
        satisfied = True
        for table in tables:
            for key in sa.inspect(connection).get_foreign_keys(table.name):
                columns, parent = key["constrained_columns"], key["referred_table"]
                if count := count_orphans(connection, table.name, columns, parent, key["referred_columns"]):
                    log_orphans(table.name, count, parent)
                    satisfied = False
        return satisfied

    def foreign_key_drop(self, connection: Connection, table: TableName, name: str) -> str:
        """Return the statement that drops a foreign key."""
        return f"ALTER TABLE {quoted_name(connection, *table)} DROP FOREIGN KEY {quoted_name(connection, None, name)}"

    def index_drop(self, connection: Connection, table: TableName, name: str) -> list[str]:
        """Return the statements that drop an index. The server refuses to drop the last index of a foreign key."""
        index = next(index for index in sa.inspect(connection).get_indexes(table[1]) if index["name"] == name)
        columns = [column for column in index["column_names"] if column]
        drop = f"DROP INDEX {quoted_name(connection, None, name)} ON {quoted_name(connection, *table)}"
        return [*self._foreign_key_drops(connection, table[1], columns), drop]

    def table_options(self, source_engine: str, dialect: Dialect) -> dict[str, Any]:
        """Return the storage engine, the character set, and a binary collation for tables of other engines."""
        options = {"engine": "InnoDB", "charset": "utf8mb4"}
        if not self.is_own_engine(source_engine):
            # The other engines compare texts byte by byte, with trailing spaces.
            mariadb = getattr(dialect, "is_mariadb", False)
            options["collate"] = "utf8mb4_nopad_bin" if mariadb else "utf8mb4_0900_bin"
        return {f"{dialect.name}_{name}": value for name, value in options.items()}

    def fit_row(self, columns: Sequence[sa.Column[Any]], indexed: set[str]) -> None:
        """Turn the longest VARCHARs that belong to no key into LONGTEXT, until the row fits the server's limit."""
        total = sum(_text_bytes(column) for column in columns)
        candidates = [c for c in columns if c.name not in indexed and _text_bytes(c)]
        for column in sorted(candidates, key=_text_bytes, reverse=True):
            if total <= _MAX_TEXT_BYTES:
                return
            total -= _text_bytes(column)
            column.type = mysql.LONGTEXT()

    def fit_key(self, key: Sequence[sa.Column[Any]]) -> None:
        """Shorten the longest texts of a primary key, until the key fits the server's limit."""
        texts = sorted((column for column in key if _text_bytes(column)), key=_text_bytes)
        others = (getattr(column.type, "length", None) or _NUMBER_BYTES for column in key if not _text_bytes(column))
        left = _MAX_KEY_BYTES - sum(others)
        for position, column in enumerate(texts):
            share = left // (len(texts) - position)
            if _text_bytes(column) > share:
                column.type = sa.String(share // _CHARACTER_BYTES)
            left -= _text_bytes(column)


_TRIGGERS = sa.text(
    "SELECT event_object_table, trigger_name FROM information_schema.triggers "
    "WHERE event_object_schema = database() ORDER BY 1, 2"
)
# InnoDB of MariaDB refuses columns so. The server itself takes more.
_CANNOT_CREATE = 1005
_TOO_MANY_COLUMNS = "errno: 185"
# Too long a name, two columns whose names differ only in case, too many keys, too many columns in a key, too long a key
# or column, too many columns, too long a row.
_LIMITS = frozenset((1059, 1060, 1069, 1070, 1071, 1074, 1117, 1118))


def _text_bytes(column: sa.Column[Any]) -> int:
    length = getattr(column.type, "length", None)
    return _CHARACTER_BYTES * length if isinstance(column.type, sa.String) and length else 0


def _key_guard(connection: Connection, table: ReplicaTable, layout: RowLayout) -> str:
    """Return an assignment that fails if the row found has a different key.

    The assignment sets the key to the given value, or to NULL if the keys differ. A primary key refuses NULL, and the
    statement fails with a conflict.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    loose = _loose_key_columns(table, layout)
    comparisons = []
    for name in table.key:
        found, given = f"{table.quoted}.{quote(name)}", f"VALUES({quote(name)})"
        comparisons.append(f"{_bytes(found)} = {_bytes(given)}" if name in loose else f"{found} = {given}")
    first = quote(table.key[0])
    return f"{first} = IF({' AND '.join(comparisons)}, VALUES({first}), NULL)"


def _delete_by_list(
    connection: Connection, table: ReplicaTable, layout: RowLayout, rows: Sequence[Any], at_once: int
) -> None:
    """Delete rows by a key of one column. ``at_once``: the most keys in a statement."""
    key = connection.dialect.identifier_preparer.quote_identifier(table.key[0])
    is_loose = bool(_loose_key_columns(table, layout))
    for start in range(0, len(rows), at_once):
        parameters = tuple(row[0] for row in rows[start : start + at_once])
        markers = ", ".join(["%s"] * len(parameters))
        sql = f"DELETE FROM {table.quoted} WHERE {key} IN ({markers})"
        if is_loose:
            exact_markers = ", ".join([_bytes("%s")] * len(parameters))
            sql, parameters = f"{sql} AND {_bytes(key)} IN ({exact_markers})", parameters + parameters
        connection.exec_driver_sql(sql, parameters)


def _is_loose(collation: str | None) -> bool:
    """Return whether a collation may take two texts for equal. Only binary collations without padding never do."""
    return collation is not None and not collation.endswith(("nopad_bin", "0900_bin"))


def _loose_key_columns(table: ReplicaTable, layout: RowLayout) -> list[str]:
    """Return the text columns of the key that the replica does not compare byte by byte."""
    return [
        name
        for name in table.key
        if table.columns[name].loose and layout.shape.column(name).type.name in value_limits.TEXTS
    ]


def _bytes(sql: str) -> str:
    """Return a text expression in a form that compares byte by byte."""
    return f"BINARY CONVERT({sql} USING utf8mb4)"


_TEXT_TYPES = frozenset(("string", "char", "text", "enum", "native", "interval", "timetz"))
_NUMBER_TYPES = frozenset(("float32", "float64", "decimal"))
_TIME_TYPES = frozenset(("time", "timestamp", "timestamptz"))
_MAX_DIGITS = 6


def converter(portable: PortableType, column_type: str, source_engine: str = "") -> Converter | None:
    """Return the converter for a column of this type, or None if the JSON value is the stored value."""
    if column_type.startswith("bit"):
        # PostgreSQL writes bits as 101.
        is_text = portable.name in _TEXT_TYPES and source_engine == "postgresql"
        return _binary_number if is_text else int
    if portable.name == "decimal" and column_type.startswith("decimal"):
        scale = column_type.partition(",")[2].partition(")")[0]
        return value_converters.require_scale(int(scale))
    if portable.name in _TIME_TYPES and column_type.startswith(("datetime", "timestamp", "time")):
        return _time_converter(portable, column_type)
    if portable.name == "char" and column_type.startswith("char"):
        # The column has no padding, so a padded key would not be found.
        return value_converters.strip_padding
    is_varchar = "char" in column_type
    if portable.name in _NUMBER_TYPES and not is_varchar and "text" not in column_type:
        return value_converters.require_finite
    if portable.name in _TEXT_TYPES and is_varchar:
        return _length_converter(portable, column_type, source_engine)
    if portable.name == "decimal" and is_varchar:
        return value_converters.require_length(value_converters.type_length(column_type) or 0)
    return value_converters.common_converter(portable, column_type)


def _binary_number(text: str) -> int:
    return int(text, 2)


def _time_converter(portable: PortableType, column_type: str) -> Converter | None:
    convert = value_converters.common_converter(portable, column_type)
    digits = value_converters.type_length(column_type) or 0
    return convert if digits == _MAX_DIGITS else value_converters.require_digits(digits, convert)


def _length_converter(portable: PortableType, column_type: str, source_engine: str) -> Converter | None:
    length = value_converters.type_length(column_type)
    # A text that the primary limits fits. SQLite limits no text.
    is_limited = portable.length and length is not None and portable.length <= length and source_engine != "sqlite"
    if length is None or is_limited:
        return None
    return value_converters.require_length(length)
