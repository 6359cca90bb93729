"""The interface between the worker and an engine."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, ClassVar, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection, Dialect, Engine
from sqlalchemy.schema import AddConstraint

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects.capacities import Capacity
from rowcast.consumer.replica.dialects.claims import ClaimSession
from rowcast.consumer.replica.dialects.naming import LIVE, TableNaming
from rowcast.consumer.replica.dialects.quoting import for_driver, quoted_name
from rowcast.consumer.replica.dialects.replica_table import Loosening, ReplicaColumn, ReplicaTable, TableName
from rowcast.consumer.replica.dialects.value_limits import ValueLimit
from rowcast.shared.database.driver_errors import ServerFault, server_fault
from rowcast.shared.database.driver_messages import one_line
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.type_mapping import engine_family

_log = logging.getLogger("rowcast.worker")

LOCK_S = 5
"""Seconds that a change of a table waits for readers of the table. The worker tries again."""

WORKER_PREFIX = "rowcast_"
"""The prefix of the worker's constraints and indexes. The worker drops nothing without the prefix."""

PositionRow = tuple[str, str, int, int, int, str | None]
"""Source, topic, partition, next offset, lsn, the topic's id."""


class TouchedKeys(NamedTuple):
    """Primary keys in the contract's encodings, of the rows that a transaction writes or deletes in a table."""

    table: ReplicaTable
    layout: RowLayout
    keys: Sequence[bytes]


class OrphanError(Exception):
    """Report a row that would refer to a missing row, found by the worker instead of the server."""


class Fault(Enum):
    """The meaning of a database error for the rows being applied."""

    LOST = "the connection or the server is gone"
    TRANSIENT = "a deadlock or a lock timeout: the same rows may succeed later"
    CONFLICT = "a violated constraint: the same rows may succeed in another order"
    DATA = "a value that the table refuses"


_FAULTS = {
    ServerFault.LOST: Fault.LOST,
    # The worker has logged in at the start, and the password or the role has been changed since.
    ServerFault.LOGIN: Fault.LOST,
    ServerFault.READ_ONLY: Fault.LOST,
    ServerFault.UNAVAILABLE: Fault.LOST,
    ServerFault.CONTENDED: Fault.TRANSIENT,
    ServerFault.TIMED_OUT: Fault.TRANSIENT,
}


class ReplicaDialect(ABC):
    """Write row images to one engine.

    Statements are cached by the caller's ``RowLayout`` and ``ReplicaTable`` objects. ``name`` is SQLAlchemy's name of
    the engine. MySQL stands for MariaDB too.
    """

    name: ClassVar[str]
    foreign_keys_in_table: ClassVar[bool] = False
    """The engine can create foreign keys only with their table, and switches them on and off instead."""
    has_deferrable_foreign_keys: ClassVar[bool] = False
    """The engine can check foreign keys at the end of the transaction."""
    has_schemas: ClassVar[bool] = False
    folds_table_names = False
    """The engine takes names of tables that differ in case for the same."""
    right_to_add_columns: ClassVar[str] = "the right ALTER on the tables"
    suspends_foreign_keys: ClassVar[bool] = False
    """``foreign_keys_at_the_end`` also switches off the actions of foreign keys, such as cascades."""
    refuses_large_integers: ClassVar[bool] = False
    """The engine refuses each integer that is too large for its column, in place of storing another number."""
    value_limits: ClassVar[Sequence[ValueLimit]] = ()
    """The values of other engines that the engine cannot hold."""
    longest_name: ClassVar[int] = 0
    """The length of the longest name of a table or column. 0: not limited."""
    name_unit: ClassVar[str] = "characters"
    """What ``longest_name`` counts: characters or bytes."""
    checks_values: ClassVar[bool] = False
    """The worker refuses each text and decimal that is too long for its column, before the engine could cut it."""
    has_concurrent_writers: ClassVar[bool] = True
    """Several sessions can write at the same time."""
    rewrites_tables: ClassVar[bool] = False
    """The engine loosens a table by writing the table again, without foreign keys in the session."""
    has_transactional_ddl: ClassVar[bool] = True
    """CREATE, DROP and RENAME roll back with their transaction."""
    naming: TableNaming = LIVE
    """The names of the source's tables, and of the worker's constraints."""

    def configure(self, engine: Engine) -> None:  # noqa: B027  # optional
        """Set up every new connection of the worker. Called once, before the first connection."""

    def configure_reader(self, engine: Engine) -> None:
        """Set up every new connection used only to read rows and images."""
        self.configure(engine)

    def database_file(self, engine: Engine) -> tuple[int, int] | None:
        """Return the identity of the file that the URL names now: device and inode, or None without a file."""
        return None

    @abstractmethod
    def new_claim(self, url: URL, label: str, source: str, lease_s: float) -> ClaimSession:
        """Return a session for the claim to the replica of ``source``, without connecting.

        The server ends a claim that has shown no sign of life for ``lease_s`` seconds.
        """

    def end_silent_transactions(self, connection: Connection, seconds: float) -> None:  # noqa: B027  # optional
        """Let the server roll back a transaction of the session after ``seconds`` of silence from the worker."""

    def end_position_holders(  # noqa: B027  # optional
        self, connection: Connection, source: str, partitions: Collection[tuple[str, int]]
    ) -> None:
        """End the sessions that hold the positions of partitions, where the server itself does not."""

    def end_other_writers(self, connection: Connection, source: str) -> None:  # noqa: B027  # optional
        """End sessions of earlier workers, or of this worker before a fault, whose transactions lock the replica's row.

        Called in a new connection of the worker with the claim, outside of any transaction. The session may be
        suspended or lost by the network, and the server would keep the locks for a long time.
        """

    def forget_tables(self) -> None:  # noqa: B027  # optional
        """Forget the statements of all tables, because the tables may be others now."""

    def is_own_engine(self, source_engine: str) -> bool:
        """Return whether a source is on this engine. The source's values can then be stored unchanged."""
        return engine_family(source_engine) == self.name

    @abstractmethod
    def key_values(self, table: ReplicaTable, layout: RowLayout, keys: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        """Return the driver's values for keys in the contract's encodings, to look rows up."""

    @abstractmethod
    def read_columns(self, connection: Connection, schema: str | None, name: str) -> dict[str, ReplicaColumn]:
        """Return the table's columns by name, or an empty dictionary if the table does not exist."""

    def read_all_columns(
        self, connection: Connection, names: Collection[TableName]
    ) -> dict[TableName, dict[str, ReplicaColumn]]:
        """Return the columns of each table, as ``read_columns`` does, in few statements if the engine can."""
        return {name: self.read_columns(connection, *name) for name in names}

    def capacity(self, column_type: str) -> Capacity | None:
        """Return the capacity of a type's columns, or None if the engine refuses every unsuitable value by an error."""
        return None

    def type_change(self, connection: Connection, table: str, column: ReplicaColumn, type_: str) -> str | None:
        """Return the statement to change the type of a column, or None if the engine has no such statement.

        The table is quoted. The statement is ready for the driver.
        """
        return None

    def column_obstacles(self, connection: Connection, table: str, column: str) -> list[str]:
        """Return the statements to drop the worker's foreign keys that prevent the change of a column.

        The worker creates the foreign keys again. ``table`` and ``column`` are not quoted.
        """
        return []

    def table_renaming(self, connection: Connection, table: TableName, new: TableName) -> Iterator[str]:
        """Yield the statements that rename a table, ready for the driver. Foreign keys, indexes and views follow."""
        yield f"ALTER TABLE {quoted_name(connection, *table)} RENAME TO {quoted_name(connection, None, new[1])}"

    def loosen(self, connection: Connection, loosening: Loosening) -> Iterator[str]:
        """Yield the statements that take constraints and defaults from a table, ready for the driver.

        Raise ConfigurationError if the engine cannot.
        """
        for name in loosening.foreign_keys:
            yield self.foreign_key_drop(connection, loosening.table, name)
        alter = f"ALTER TABLE {quoted_name(connection, *loosening.table)} ALTER COLUMN"
        for name in loosening.nullable:
            yield f"{alter} {quoted_name(connection, None, name)} DROP NOT NULL"
        for name, sql in loosening.defaults.items():
            yield f"{alter} {quoted_name(connection, None, name)} {default_change(connection, sql)}"

    @contextmanager
    def bounded_lock_waits(self, connection: Connection) -> Iterator[None]:
        """Let a statement of the block wait for readers of its table for ``LOCK_S`` seconds at most.

        Called within a transaction.
        """
        yield

    def triggers(self, connection: Connection, names: Collection[TableName]) -> dict[TableName, list[str]]:
        """Return the triggers and rules of these tables, without the triggers of rowcast's own capture.

        A table without triggers is left out.
        """
        found: dict[TableName, list[str]] = {}
        for table, trigger in self.read_triggers(connection, names):
            if not trigger.startswith(WORKER_PREFIX):
                found.setdefault(table, []).append(trigger)
        return found

    def read_triggers(self, connection: Connection, names: Collection[TableName]) -> Iterator[tuple[TableName, str]]:
        """Yield table and name of each trigger and rule of the tables, if visible to the worker's user."""
        return iter(())

    def is_limit(self, error: exc.DBAPIError) -> bool:
        """Return whether the engine refuses a table for the number of columns, the names, or the size of the rows."""
        return False

    def require_transactions(self, connection: Connection, names: Sequence[str]) -> None:  # noqa: B027  # optional
        """Raise ConfigurationError if the engine keeps rolled back changes of the tables."""

    def set_consistency(self, connection: Connection, *, consistent: bool) -> None:  # noqa: B027  # optional
        """Set the connection up for a replica that is loading or consistent. Called outside of any transaction."""

    def begin(
        self, connection: Connection, statement: sa.Update, parameters: Mapping[str, Any], *, defer_foreign_keys: bool
    ) -> int:
        """Execute the first statement of a transaction. Return the number of found rows.

        ``defer_foreign_keys``: check foreign keys at the end of the transaction, if the engine can.
        """
        found = connection.execute(statement, parameters).rowcount
        if defer_foreign_keys:
            self.defer_foreign_keys(connection)
        return found

    def defer_foreign_keys(self, connection: Connection) -> None:  # noqa: B027  # optional
        """Check foreign keys at the end of the current transaction, if the engine can."""

    @abstractmethod
    def upsert(
        self, connection: Connection, table: ReplicaTable, layout: RowLayout, images: Sequence[bytes],
        create: Sequence[bool] = (),
    ) -> None:  # fmt: skip
        """Write rows by primary key, each key once at most. Never change a row of another key.

        ``create``: for each image, whether the row is new according to the event. The row may exist nevertheless. Raise
        ValueError for a value that the engine cannot hold.
        """

    @abstractmethod
    def update(self, connection: Connection, table: ReplicaTable, layout: RowLayout, images: Sequence[bytes]) -> None:
        """Write the columns of the layout to existing rows by primary key, each key once at most.

        Raise DataError if a row is missing, because the images do not have all of its values.
        """

    @abstractmethod
    def delete(self, connection: Connection, table: ReplicaTable, layout: RowLayout, keys: Sequence[bytes]) -> None:
        """Delete rows by primary key. A key without a row is not an error."""

    def empty(self, connection: Connection, table: ReplicaTable) -> None:
        """Delete all rows. TRUNCATE would need another right, lock the table, and commit on MariaDB and MySQL."""
        connection.exec_driver_sql(f"DELETE FROM {table.quoted}")

    @abstractmethod
    def write_positions(self, connection: Connection, rows: Sequence[PositionRow]) -> None:
        """Insert or update rows of ``rowcast_position`` in one round trip, because every transaction does."""

    def finish(self, connection: Connection, rows: Sequence[PositionRow]) -> None:
        """Write positions as the last statement of a transaction. The engine may commit at once."""
        self.write_positions(connection, rows)

    @contextmanager
    def foreign_keys_at_the_end(self, connection: Connection, touched: Sequence[TouchedKeys]) -> Iterator[None]:
        """Check foreign keys at the end of the block only, for an engine that checks foreign keys row by row.

        ``touched``: the keys of all rows written or deleted by the block. Raise OrphanError if a row lacks the parent.
        """
        yield

    def classify(self, error: exc.DBAPIError) -> Fault:
        """Return what the error means for the rows."""
        if error.connection_invalidated or isinstance(error, exc.InterfaceError):
            return Fault.LOST
        if isinstance(error, exc.IntegrityError):
            return Fault.CONFLICT
        return self._classify_by_code(error)

    def _classify_by_code(self, error: exc.DBAPIError) -> Fault:
        """Classify an error by the server's code, because the driver's class says too little."""
        return _FAULTS.get(server_fault(error), Fault.DATA)

    def reason(self, error: exc.DBAPIError) -> str:
        """Return the server's message in one line, without values of rows if values are hidden."""
        return one_line(error)

    @abstractmethod
    def is_violated_by_rows(self, error: exc.DBAPIError) -> bool:
        """Return whether rows prevented a constraint. If not, the engine does not support the constraint."""

    def check_foreign_keys(self, connection: Connection, tables: Sequence[ReplicaTable]) -> bool:
        """Return whether the rows satisfy all foreign keys, and warn of each violation.

        Needed only for engines with foreign keys that can be switched on without a check of the rows.
        """
        return True

    def foreign_key_addition(self, connection: Connection, key: sa.ForeignKeyConstraint) -> list[str]:
        """Return the statements that add a foreign key to its table."""
        return [str(AddConstraint(key, isolate_from_table=False).compile(dialect=connection.dialect))]

    def foreign_key_drop(self, connection: Connection, table: TableName, name: str) -> str:
        """Return the statement that drops a foreign key."""
        return f"ALTER TABLE {quoted_name(connection, *table)} DROP CONSTRAINT {quoted_name(connection, None, name)}"

    def index_drop(self, connection: Connection, table: TableName, name: str) -> list[str]:
        """Return the statements to drop an index, and the worker's foreign keys on the index."""
        return [f"DROP INDEX {quoted_name(connection, table[0], name)}"]

    def table_options(self, source_engine: str, dialect: Dialect) -> dict[str, Any]:
        """Return keyword arguments for the ``sa.Table`` of a source's table."""
        return {}

    def fit_row(self, columns: Sequence[sa.Column[Any]], indexed: set[str]) -> None:  # noqa: B027  # optional
        """Change types of columns if the engine limits the size of a row. ``indexed``: the columns of keys."""

    def fit_key(self, key: Sequence[sa.Column[Any]]) -> None:  # noqa: B027  # optional
        """Change types of the primary key's columns if the engine limits the size of a key."""

    def missing_types(self, connection: Connection, shapes: Sequence[TableShape]) -> dict[str, list[str]]:
        """Map each type missing in the database to ``schema.table.column`` of the columns with the type."""
        return {}


def default_change(connection: Connection, sql: str) -> str:
    """Return what ALTER COLUMN says about a default. ``sql``: "" drops the default."""
    return f"SET DEFAULT {for_driver(connection, sql)}" if sql else "DROP DEFAULT"


def require_written(table: ReplicaTable, written: int, rows: int) -> None:
    """Raise DataError if the database has written fewer rows than it was given.

    ``written``: -1 if the driver does not count.
    """
    if 0 <= written < rows:
        raise DataError(
            f"table {table.name}: the database has written {written} of {rows} rows, so a trigger or a rule of the "
            "replica's table drops rows. Drop the trigger or rule, and start the worker again."
        )


def require_updated(table: ReplicaTable, layout: RowLayout, written: int, rows: int) -> None:
    """Raise DataError if rows are missing that events have only in part.

    ``written``: the number of rows found, or -1 if the driver does not count.
    """
    if 0 <= written < rows:
        left_out = ", ".join(column.name for column in layout.shape.columns if column.name not in layout.names)
        raise DataError(
            f"table {table.name}: an event leaves out the unchanged value of column {left_out}, and the replica does "
            "not have the row. Let the connector take a snapshot of the table."
        )
