"""The interface between a promotion and an engine, and the steps of every engine."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar

from sqlalchemy.engine import Connection

from rowcast.consumer.promotion.existing_table import ExistingForeignKey, ExistingTable
from rowcast.consumer.promotion.plan import Plan
from rowcast.consumer.replica.dialects import WORKER_PREFIX, for_driver, quoted_name
from rowcast.consumer.replica.dialects.default_sql import default_sql
from rowcast.consumer.replica.dialects.existing_column import ExistingColumn
from rowcast.consumer.replica.dialects.naming import constraint_base
from rowcast.consumer.replica.table_definitions import constraint_name
from rowcast.shared.tables.shape import ColumnShape, ForeignKeyShape, IndexShape


class PromotionDialect(ABC):
    """Write the steps of a promotion. A new object for each promotion."""

    engine: ClassVar[str]
    """The family of the engine, as ``engine_family`` names it."""

    @abstractmethod
    def read_columns(self, connection: Connection, schema: str | None, name: str) -> dict[str, ExistingColumn]:
        """Return the columns of a table by name."""

    def taken_index_names(self, connection: Connection, schema: str | None) -> set[str]:
        """Return the names that an index cannot have, because another table's index has the name."""
        return set()

    def prepare(self, connection: Connection) -> None:  # noqa: B027  # optional
        """Set the session up for a step. Called outside of any transaction."""

    def plan(self, connection: Connection, table: ExistingTable, plan: Plan) -> None:
        """Add the steps for a table, in the order of execution."""
        self.plan_types(connection, table, plan)
        for column, existing in table.pairs():
            if not column.nullable and existing.nullable and column.name not in table.has_rows_without:
                self.plan_not_null(connection, table, column, existing, plan)
        for column, existing in table.pairs():
            if column.identity is not None:
                self.plan_counter(connection, table, column, existing, plan)
        for name, sql in self.missing_defaults(table):
            plan.add(table.shape.full_name, self.set_default(connection, table, name, for_driver(connection, sql)))
        self.plan_indexes(connection, table, plan)
        for key, existing_key in self.keys_without_action(table):
            self.plan_action(connection, table, key, existing_key, plan)
        for key, planned in table.missing_keys():
            self.plan_key(connection, table, key, planned, plan)

    def set_default(self, connection: Connection, table: ExistingTable, name: str, sql: str) -> str:
        """Return the statement for the default of a column. ``sql``: ready for the driver."""
        return f"ALTER TABLE {table.quoted} ALTER COLUMN {self.quote(connection, name)} SET DEFAULT {sql}"

    def plan_types(self, connection: Connection, table: ExistingTable, plan: Plan) -> None:  # noqa: B027  # optional
        """Add the steps that give columns types of the source's engine which a replica does without."""

    @abstractmethod
    def plan_not_null(
        self, connection: Connection, table: ExistingTable, column: ColumnShape, existing: ExistingColumn, plan: Plan
    ) -> None:
        """Add the step that makes a column NOT NULL."""

    @abstractmethod
    def plan_counter(
        self, connection: Connection, table: ExistingTable, column: ColumnShape, existing: ExistingColumn, plan: Plan
    ) -> None:
        """Add the steps that number the rows of a column from above the greatest value on."""

    @abstractmethod
    def plan_action(
        self,
        connection: Connection,
        table: ExistingTable,
        key: ForeignKeyShape,
        existing: ExistingForeignKey,
        plan: Plan,
    ) -> None:
        """Add the step that gives a foreign key of the worker the actions of the source's."""

    @abstractmethod
    def plan_key(
        self,
        connection: Connection,
        table: ExistingTable,
        key: ForeignKeyShape,
        planned: ExistingForeignKey,
        plan: Plan,
    ) -> None:
        """Add the step that creates a foreign key, and checks all rows."""

    @abstractmethod
    def rename_index(self, connection: Connection, table: ExistingTable, old: str, new: str) -> tuple[str, ...]:
        """Return the statements that give an index another name."""

    def missing_defaults(self, table: ExistingTable) -> Iterator[tuple[str, str]]:
        """Yield column and SQL of each possible default missing in the replica."""
        for column, existing in table.pairs():
            if column.default is None or existing.default or existing.is_numbered or column.identity is not None:
                continue
            sql = default_sql(column, table.shape.engine, self.engine, existing.type)
            if sql is not None:
                yield column.name, sql

    def plan_indexes(self, connection: Connection, table: ExistingTable, plan: Plan) -> None:
        """Add the steps for the indexes of the source. An index of the worker gets the source's name."""
        taken = self.taken_index_names(connection, table.schema)
        for index in table.shape.indexes:
            if index.left_out is not None or any(name not in table.columns for name in index.columns):
                continue
            alike = [e for e in table.indexes if e.columns == index.columns and (e.unique or not index.unique)]
            if any(e.name == index.name for e in table.indexes):
                continue
            own = next((e.name for e in alike if e.name and e.name.startswith(WORKER_PREFIX)), None)
            name = index.name
            if name in taken or name.startswith(WORKER_PREFIX):
                name = constraint_name("ix", table.shape.full_name, index.name)
            if own is not None and name == index.name:
                plan.add(table.shape.full_name, *self.rename_index(connection, table, own, name), is_optional=True)
            elif not alike:
                plan.add(table.shape.full_name, self.create_index(connection, table, index, name), is_optional=True)

    def create_index(self, connection: Connection, table: ExistingTable, index: IndexShape, name: str) -> str:
        """Return the statement that creates an index."""
        return (
            f"CREATE {'UNIQUE ' if index.unique else ''}INDEX {self.quote(connection, name)} ON {table.quoted} "
            f"({self.quoted_list(connection, index.columns)})"
        )

    def keys_without_action(self, table: ExistingTable) -> Iterator[tuple[ForeignKeyShape, ExistingForeignKey]]:
        """Yield the worker's foreign keys without the actions of the source."""
        for key in table.possible_keys:
            existing = table.foreign_key(key.columns)
            if existing is None or not (existing.name or "").startswith(WORKER_PREFIX):
                continue
            if (existing.on_delete, existing.on_update) != (key.on_delete, key.on_update):
                yield key, existing

    def foreign_key_sql(self, connection: Connection, existing: ExistingForeignKey, key: ForeignKeyShape) -> str:
        """Return the definition of a foreign key with the source's actions, and a name that the worker recognizes."""
        digest = hashlib.sha256(f"{key.on_delete} {key.on_update}".encode()).hexdigest()[:6]
        name = f"{constraint_base(existing.name)}_{digest}"
        actions = "".join(
            f" ON {event} {action}"
            for event, action in (("DELETE", key.on_delete), ("UPDATE", key.on_update))
            if action is not None
        )
        return (
            f"CONSTRAINT {self.quote(connection, name)} FOREIGN KEY ({self.quoted_list(connection, existing.columns)}) "
            f"REFERENCES {existing.referred} ({self.quoted_list(connection, existing.referred_columns)}){actions}"
        )

    def quote(self, connection: Connection, name: str) -> str:
        """Return a name ready for the driver."""
        return quoted_name(connection, None, name)

    def quoted_list(self, connection: Connection, names: Iterable[str]) -> str:
        """Return names ready for the driver, with commas."""
        return ", ".join(self.quote(connection, name) for name in names)
