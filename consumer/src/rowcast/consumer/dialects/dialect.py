"""What an engine must say so that rows can be applied to it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from sqlalchemy import exc
from sqlalchemy.engine import Connection, Dialect, Engine

from rowcast.consumer.layouts import Layout

_log = logging.getLogger("rowcast.worker")

PositionRow = tuple[str, str, int, int, int]
"""Source, topic, partition, next offset, lsn."""


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """A column as the replica has it; ``type`` is the engine's own name of its type, in lower case. ``likens``: texts
    that differ may be equal there (``a`` and ``A``), by its collation."""

    name: str
    type: str
    nullable: bool
    generated: bool
    likens: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ReplicaTable:
    """A table of the replica. ``quoted`` is its name ready for SQL; ``other_unique``: it has unique keys besides the
    primary one."""

    schema: str | None
    name: str
    quoted: str
    columns: dict[str, StoredColumn]
    key: tuple[str, ...]
    other_unique: bool

    def taken(self, layout: Layout) -> list[str]:
        """The columns of an event's row that are written: not one that the replica computes by itself, nor one that
        events of an older shape have and the replica, which was made since, has not."""
        return [name for name in layout.columns if name in self.columns and not self.columns[name].generated]


class Fault(Enum):
    """What a database error means for the rows that were being applied."""

    LOST = "the connection or the server is gone"
    PASSING = "a deadlock, a lock that was not given in time: the same again may pass"
    CONFLICT = "a constraint stands in the way; another order of the same rows may pass"
    DATA = "a value that the table does not take"


class ReplicaDialect(ABC):
    """How one engine stores images. Statements are cached by the caller's Layout and ReplicaTable objects."""

    name: ClassVar[str]
    foreign_keys_in_table: ClassVar[bool] = False
    """Foreign keys can only be made with their table; they are switched on and off."""
    deferrable: ClassVar[bool] = False
    """Foreign keys can be made so that they are looked at when the transaction ends."""
    has_schemas: ClassVar[bool] = False
    suspends_foreign_keys: ClassVar[bool] = False
    """``suspend_foreign_keys`` switches off their actions too."""

    def configure(self, engine: Engine) -> None:  # noqa: B027  # not every engine needs it
        """Sets up every new connection. Called once, before the first one is made."""

    def configure_reader(self, engine: Engine) -> None:
        """As ``configure``, for connections that only read rows and their images."""
        self.configure(engine)

    @abstractmethod
    def key_values(self, table: ReplicaTable, layout: Layout, keys: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        """The driver's values to look rows up by, for keys in the contract's encodings."""

    @abstractmethod
    def stored_columns(self, connection: Connection, schema: str | None, name: str) -> dict[str, StoredColumn]:
        """The table's columns by name; empty if there is no such table."""

    def enter(self, connection: Connection, *, consistent: bool) -> None:  # noqa: B027  # not every engine needs it
        """Called outside of any transaction when the replica begins to load or has become consistent."""

    def begin(self, connection: Connection) -> None:  # noqa: B027  # not every engine needs it
        """The first thing in every transaction that applies rows: foreign keys are looked at when it ends, where the
        engine can do that."""

    @abstractmethod
    def upsert(self, connection: Connection, table: ReplicaTable, layout: Layout, images: Sequence[bytes]) -> None:
        """Writes rows by primary key, each key at most once; never touches a row of another key.

        Raises ValueError for a value that the engine cannot hold.
        """

    @abstractmethod
    def delete(self, connection: Connection, table: ReplicaTable, layout: Layout, keys: Sequence[bytes]) -> None:
        """Deletes rows by primary key; a key that is not there is no error."""

    @abstractmethod
    def write_positions(self, connection: Connection, rows: Sequence[PositionRow]) -> None:
        """Inserts rows of ``rowcast_position``, or writes over those that are there: in one round trip, for it is a
        part of every transaction."""

    def suspend_foreign_keys(self, connection: Connection) -> None:  # noqa: B027  # not every engine needs it
        """For the rest of one transaction whose end state is known to be good; see ``resume_foreign_keys``."""

    def resume_foreign_keys(self, connection: Connection) -> None:  # noqa: B027  # not every engine needs it
        """Ends what ``suspend_foreign_keys`` began."""

    def fault(self, error: exc.DBAPIError) -> Fault:
        """Tells what ``error`` means."""
        if error.connection_invalidated or isinstance(error, exc.InterfaceError):
            return Fault.LOST
        if isinstance(error, exc.IntegrityError):
            return Fault.CONFLICT
        return self._other_fault(error)

    @abstractmethod
    def _other_fault(self, error: exc.DBAPIError) -> Fault:
        """Tells apart what the driver's classes do not."""

    def reason(self, error: exc.DBAPIError) -> str:
        """What the server said, in one line."""
        return " ".join(str(error.orig).split())

    @abstractmethod
    def rows_stand_in_the_way(self, error: exc.DBAPIError) -> bool:
        """Whether making a constraint failed because of rows, rather than because the engine cannot have it."""

    def check_foreign_keys(self, connection: Connection, tables: Sequence[ReplicaTable]) -> bool:
        """For engines that switch foreign keys on without looking at the rows: looks, and warns. True: all is well."""
        return True

    def drop_foreign_key(self, connection: Connection, table: ReplicaTable, name: str) -> None:
        """Drops a foreign key that the worker made."""
        quote = connection.dialect.identifier_preparer.quote_identifier
        connection.exec_driver_sql(f"ALTER TABLE {table.quoted} DROP CONSTRAINT {quote(name)}")

    def drop_index(self, connection: Connection, table: ReplicaTable, name: str) -> None:
        """Drops an index that the worker made."""
        connection.exec_driver_sql(f"DROP INDEX {quoted_name(connection, table.schema, name)}")

    def table_options(self, source_engine: str, dialect: Dialect) -> dict[str, Any]:
        """Keyword arguments for the ``Table`` that is created for a source's table."""
        return {}


def quoted_name(connection: Connection, schema: str | None, name: str) -> str:
    """``schema.table`` in the engine's quotes, whether it needs them or not, ready for the driver."""
    preparer = connection.dialect.identifier_preparer
    parts = [preparer.quote_identifier(part) for part in (schema, name) if part]
    return ".".join(parts)


def log_orphans(table: str, count: int, parent: str) -> None:
    """Warns of rows that keep a replica from being consistent."""
    _log.warning(
        "table %s: %d rows refer to rows of %s that are not there, so the replica is still loading. "
        "Are there rows from before the capture, which are not in the topics?", table, count, parent,
    )  # fmt: skip
