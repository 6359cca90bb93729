"""Define the interface between a database engine and the capture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, ClassVar, NamedTuple, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.engine import URL, Connection, Dialect
from sqlalchemy.pool import PoolProxiedConnection

from rowcast.producer.database.dialects.keys import KeyDialect
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import PortableType

Query = TypeVar("Query", bound=sa.Select[Any])

_MARK = "rowcast_mark"
_LONG = 1_000
"""The greatest length of a type, in characters or bytes, whose values are short."""


class MissingRow(NamedTuple):
    """Name a row that must exist and is not found.

    ``table``: the full name. ``key``: the values by column. ``hidden``: row-level security may hide the row.
    """

    table: str
    key: Mapping[str, Any]
    hidden: bool


class CaptureDialect(ABC):
    """Hold everything special to a database engine on the capturing side.

    A dialect has no state, and serves any number of engines and connections. The counterpart for replicas is
    ``ReplicaDialect``, for the text of row images ``ImageDialect``, and for triggers ``TriggerDialect``.
    """

    # -- transactions and locks

    has_row_locks: ClassVar[bool] = True
    """A transaction can lock rows. Engines without row locks have a single writer at a time."""

    locks_missing_rows: ClassVar[bool] = True
    """After a locking read without a result, no further transaction can insert the row."""

    failure_ends_transaction: ClassVar[bool] = False
    """After a failed statement the transaction can only be rolled back, at least to a savepoint."""

    transaction_id: ColumnElement[str] | None = None
    """The SQL expression for the id of the current transaction. None: the capture makes up an id."""

    has_transaction_token: ClassVar[bool] = False
    """Triggers write under a token in the database, and a used token must be sealed. See ``transaction_ids``."""

    folds_column_names: ClassVar[bool] = False
    """Names of columns that differ in case only are the same name."""

    commits_implicitly: ClassVar[bool] = False
    """DDL and other statements commit the open transaction."""

    def is_autocommit(self, pooled: PoolProxiedConnection) -> bool:
        """Return whether the driver lets each statement be committed by itself, and no transaction is open."""
        return bool(getattr(pooled.dbapi_connection, "autocommit", False))

    def begins_at_savepoint(self, pooled: PoolProxiedConnection) -> bool:
        """Return whether a savepoint set now would begin the transaction. The release of such a savepoint commits."""
        return False

    def mark_transaction(self, connection: Connection) -> None:
        """Set a savepoint in the open transaction, which shows later if the transaction is still open."""
        execute_unseen(connection, f"SAVEPOINT {_MARK}")

    def is_marked_transaction(self, connection: Connection) -> bool:
        """Return whether the transaction of ``mark_transaction`` is still open."""
        try:
            execute_unseen(connection, f"RELEASE SAVEPOINT {_MARK}")
        except connection.dialect.loaded_dbapi.Error:
            return False
        return True

    def has_ended_at(self, connection: Connection, error: exc.DBAPIError) -> bool:
        """Return whether the error of a statement has rolled back the whole transaction."""
        return False

    def is_aborted(self, error: exc.DBAPIError) -> bool:
        """Return whether a statement failed because the transaction can only be rolled back."""
        return False

    run_deferred: ClassVar[str]
    """The statement that runs the deferred triggers of the transaction. Needed with ``has_deferrable_triggers``."""

    def has_deferrable_triggers(self, connection: Connection) -> bool:
        """Return whether a trigger in the database may run, or a primary key may be checked, as late as COMMIT."""
        return False

    def storage_without_transactions(self, connection: Connection, schema: str, name: str) -> str | None:
        """Return the name of a table's storage engine if it has no transactions, else None."""
        return None

    @abstractmethod
    def now_ms(self) -> ColumnElement[int]:
        """Return the SQL expression for the time of the statement, in milliseconds since 1970.

        All relays and writers of a primary share the clock of the database.
        """

    def lock_for_reading(self, connection: Connection, table: Any, options: Mapping[str, Any]) -> None:  # noqa: B027
        """Take the lock to keep rows unchanged between a read and the next write.

        Engines with row locks have nothing to do here, because ``SELECT … FOR UPDATE`` takes the locks.
        """

    def without_row_limit(self, query: Query) -> Query:
        """Return the query with a limit of its own, if a setting of the session may limit the rows of a query."""
        return query

    def read_as_update(self, connection: Connection, query: sa.Select[Any], table: Any) -> sa.Select[Any]:
        """Return the query of the keys of ``table``, reading other tables as an UPDATE with its condition would.

        The query may come back with the locks that it must take.
        """
        return query

    def lock_for_truncate(self, connection: Connection, tables: Sequence[sa.Table]) -> bool:
        """Lock tables as TRUNCATE does. Return False, without a lock, if TRUNCATE does not belong to a transaction."""
        return False

    def trigger_transaction_id(self, connection: Connection) -> str | None:
        """Return the id under which triggers write in the current transaction.

        Return None if ``transaction_id`` has the expression for the id.
        """
        return None

    # -- what a DML statement reports

    qualifies_returning: ClassVar[bool] = False
    """An appended RETURNING names the table, because the columns of other tables in the statement are visible in it."""

    executes_one_by_one: ClassVar[bool] = False
    """The driver executes a statement for one parameter set after the other, and a failure leaves the earlier rows."""

    keeps_rowcount: ClassVar[bool] = False
    """The driver's cursor knows the number of rows of many parameter sets even after SQLAlchemy has closed it."""

    def counts_many_sets(self, dialect: Dialect) -> bool:
        """Return whether the driver counts the rows of a statement with many parameter sets."""
        return True

    upserts_a_row_once: ClassVar[bool] = False
    """An upsert of many rows in one statement fails if two of them change the same row."""

    reports_insert_id: ClassVar[bool] = False
    """The driver reports a number that an INSERT has drawn, but not if the INSERT has a RETURNING."""

    has_dml_in_ctes: ClassVar[bool] = False
    """A common table expression can contain DML, to write several tables in a single statement."""

    draws_key_for_zero: ClassVar[bool] = False
    """An INSERT of 0 into an auto-increment column stores the next number of the sequence."""

    backslash_escapes: ClassVar[bool] = False
    """In SQL text, double quotes make a string, a backslash escapes the next character, and ``#`` begins a comment."""

    def recurse_deeply(self, query: sa.Select[Any]) -> sa.Select[Any]:
        """Return the query with a hint for a recursion of many levels, if the engine needs a hint."""
        return query

    has_lateral: ClassVar[bool] = False
    """A LATERAL subquery with OFFSET 0 makes the planner look up rows in an index, one after the other."""

    # -- the drain

    array_parameters: ClassVar[bool] = False
    """One parameter can carry any number of keys, as an array."""

    keys: ClassVar[KeyDialect] = KeyDialect()
    """How the engine stores and compares keys."""

    def missing_line(
        self, line: ColumnElement[str] | None, table: sa.Table, gone: ColumnElement[str], dialect: Dialect
    ) -> ColumnElement[str] | None:
        """Return the expression for the line of a key without a row, or None for NULL.

        ``line``: the line, or None if the row must exist. ``gone``: the delete of the key, for the text of an error
        that the engine may raise instead of giving NULL.
        """
        return line

    hides_long_texts: ClassVar[bool] = False
    """A function gives NULL in place of a text that is longer than the server allows, depending on the session."""

    def fits(self, column: sa.Column[Any], type_: PortableType) -> ColumnElement[bool] | None:
        """Return the condition that no function on the column gives NULL because of an overlong value.

        Return None on an engine without a limit, or if every value of the type is short.
        """
        return None

    def measured_bytes(self, column: sa.Column[Any], type_: PortableType) -> ColumnElement[int] | None:
        """Return about the size of a value in bytes, if the drain must measure many rows before it joins their lines.

        Return None if every value of the type is short, or if the drain can continue after a failure.
        """
        return None

    def is_too_long(self, error: exc.DBAPIError) -> bool:
        """Return whether a statement failed because a text would have been longer than the engine allows."""
        return False

    raises_for_missing_rows: ClassVar[bool] = False
    """``missing_line`` raises an error. Otherwise a missing row makes NULL of the outbox row's text."""

    def missing_row(self, error: exc.DBAPIError) -> MissingRow | None:
        """Return the row that the error of ``missing_line`` names, or None for another error."""
        return None

    def replaced_statements(self, connection: Connection) -> frozenset[tuple[str, str]]:
        """Return the tables, as ``schema.table``, and the verbs of the statements that may be replaced.

        A trigger or a rule may do something else in the place of an ``UPDATE`` or ``DELETE``, a rule in the place of an
        ``INSERT``, and a trigger in the place of an ``INSERTED ROW``.
        """
        return frozenset()

    def tables_with_row_security(self, connection: Connection) -> frozenset[str]:
        """Return the tables with row-level security, as ``schema.table``, whether or not it is active for the role."""
        return frozenset()

    def hides_rows(self, connection: Connection, table: sa.Table) -> bool:
        """Return whether row-level security may hide rows of the table from the current role."""
        return False

    def has_right(self, connection: Connection, table: sa.Table, right: str, column: str | None = None) -> bool:
        """Return whether the current role may ``SELECT``, ``INSERT``, ``UPDATE`` or ``DELETE``.

        ``column``: ask for this column, and not for any column. True if the engine cannot be asked.
        """
        return True

    def may_change_schema(self, sql: str, parameters: Any) -> bool:
        """Return whether SQL text may change where the database looks for tables without a schema."""
        return False

    def schema_of(self, connection: Connection, name: str) -> tuple[str | None, bool]:
        """Return the schema in which the database finds a table without a schema, and whether it finds the outbox."""
        raise NotImplementedError

    def placed_text(self, text: ColumnElement[str], tables: Sequence[sa.Table], dialect: Dialect) -> ColumnElement[str]:
        """Return ``text``, or an error or NULL if one of the tables is not looked for in the default schema.

        The tables have no schema.
        """
        return text

    def changed_schema(self, connection: Connection, error: exc.DBAPIError | None) -> str | None:
        """Return where the connection looks for tables, if ``placed_text`` has found another schema, else None.

        ``error``: the error of the statement, or None if it wrote no row.
        """
        return None

    def ensure_functions(self, connection: Connection) -> None:  # noqa: B027
        """Give the connection the SQL functions for row images, unless the engine has all of them."""

    def under_fixed_settings(self, text: ColumnElement[str], types: Iterable[PortableType]) -> ColumnElement[str]:
        """Return the text of values of these types, made in the same way under all settings of the session."""
        return text

    def fixed_settings_hold(self, types: Iterable[PortableType]) -> str:
        """Return the SQL condition that texts of these types need no ``under_fixed_settings`` in the session."""
        return "true"

    @abstractmethod
    def insert_unless_there(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> sa.Insert:
        """Return an INSERT of rows that has no effect on existing rows of equal keys."""

    def column_names(self, connection: Connection, table: sa.Table) -> set[str]:
        """Return the names of the columns that an existing table has in the database."""
        return {str(column["name"]) for column in sa.inspect(connection).get_columns(table.name, table.schema)}

    def folded_table_name(self, name: str, dialect: Dialect) -> str:
        """Return the name of a table in the form in which the engine compares names."""
        return name

    def tune_table(self, connection: Connection, table: sa.Table) -> None:  # noqa: B027
        """Set how the engine stores and cleans a new table of the outbox."""

    # -- the relay's connections

    writer_isolation: ClassVar[str | None] = "READ COMMITTED"
    """The isolation level of the relay's short transactions. None: the engine's default."""

    snapshot_isolation: ClassVar[str | None] = "REPEATABLE READ"
    """The isolation level of a database snapshot. None: the engine's default."""

    retry_isolation: ClassVar[str | None] = None
    """The isolation level in which the rows of a parked transaction are read again. None: the engine's default."""

    row_settings: ClassVar[Sequence[str]] = ()
    """The settings for a session in which ``prepare_row_reader`` is called."""

    def prepare_row_reader(self, connection: Connection) -> None:
        """Set up a session that reads rows of captured tables, for snapshots and for parked transactions.

        No setting of the role may change how keys and images are written, or hide a row.
        """
        for setting in self.row_settings:
            connection.exec_driver_sql(f"SET SESSION {setting}")

    def prepare_writer(self, connection: Connection, idle_ms: int) -> None:  # noqa: B027
        """Set up the relay's writing connection.

        The server should end an idle transaction after ``idle_ms`` milliseconds, because a hanging relay would hold the
        row of the lease.
        """

    def prepare_reader(self, connection: Connection) -> None:  # noqa: B027
        """Set up the relay's reading connection."""

    def begin_snapshot(self, connection: Connection) -> None:  # noqa: B027
        """Begin the snapshot's transaction in the database, if the driver would do so too late."""

    def limit_lock_wait(self, connection: Connection, seconds: int) -> None:  # noqa: B027
        """Limit the time for which statements of the transaction wait for a lock."""

    def lock_table(self, connection: Connection, name: str) -> None:
        """Keep writers away from a table until the transaction ends. Needed where ``locks_missing_rows`` is false."""
        raise NotImplementedError

    # -- how the relay reads and deletes outbox rows

    rows_by_ids: ClassVar[str]
    """FROM and WHERE of the outbox rows ``o`` with the ids in the parameter ``:ids``."""

    delete_rows: ClassVar[str] = "DELETE"
    """The beginning of a DELETE, before ``rows_by_ids``."""

    def ids_parameter(self, ids: Sequence[int]) -> object:
        """Return the value of ``:ids`` in ``rows_by_ids``."""
        return orjson.dumps(list(ids)).decode()

    def byte_length(self, text: ColumnElement[Any]) -> ColumnElement[int]:
        """Return the SQL expression for the size of a text in bytes."""
        return sa.func.octet_length(text)

    def group_by_sorting(self, query: sa.Select[Any]) -> sa.Select[Any]:
        """Return the query with a hint for a GROUP BY of many groups, if the engine needs a hint."""
        return query

    def vacuum_outbox(self, connection: Connection) -> bool:
        """Remove the deleted rows of the outbox from its storage. ``connection`` is in autocommit.

        Return False if the role has no right to do so.
        """
        return True

    needs_vacuum: ClassVar[bool] = False
    """Deleted rows slow down reading until ``vacuum_outbox`` removes them."""

    # -- snapshots of tables

    # -- types and names

    types_found_by_event_value: ClassVar[frozenset[str]] = frozenset(
        ("int16", "int32", "int64", "uint64", "string", "text", "uuid")
    )
    """The portable types of key columns in which a comparison with the value in an event finds the row."""

    enforces_types: ClassVar[bool] = True
    """A column holds only values of its type."""

    has_boolean: ClassVar[bool] = False
    """A boolean column holds nothing but true, false and NULL."""

    timestamp_digits: ClassVar[int] = 6
    """The digits of a second's fraction to write into Connect's schema of a timestamp. 0: leave them out."""

    def time_digits(self, type_: PortableType) -> int:
        """Return the digits of a second's fraction for Connect's schema of a time. 0: leave them out."""
        return 0

    def reflects_type(self, type_name: str) -> bool:
        """Return whether the catalogue's type of a column says for certain if the portable type is ``type_name``."""
        return True

    def partitions(self, connection: Connection, schema: str) -> set[str]:
        """Return the names of the partitions of tables in a schema."""
        return set()

    def database_name(self, url: URL) -> str:
        """Return the name of the database for events."""
        return url.database or ""

    # -- triggers

    def hindrance_to_triggers(self, connection: Connection) -> str | None:
        """Return why rowcast's triggers fail for statements on this connection, or None."""
        return None

    def trigger_dialect(self, dialect: Dialect) -> str:
        """Return the place of the engine's TriggerDialect, as ``module:class``.

        The place is a text because the database room must not import the triggers. ``dialect`` has been connected.
        Raises ConfigurationError if triggers cannot capture on the engine.
        """
        raise ConfigurationError(
            f"rowcast has no triggers for the engine {dialect.name!r}. Capture by listeners there."
        )


def execute_unseen(connection: Connection, sql: str) -> None:
    """Execute a statement on the driver's connection, because the application's listeners must not see it."""
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(sql)


def fetch_unseen(connection: Connection, sql: str) -> Sequence[Any]:
    """Return the rows of a query, executed like ``execute_unseen``."""
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def has_long_values(type_: PortableType) -> bool:
    """Return whether a few values of the type can exceed the length of a text on an engine."""
    if type_.name in ("string", "char", "bytes") and type_.length is not None:
        return type_.length > _LONG
    return type_.name in ("string", "char", "bytes", "text", "json", "array", "native")
