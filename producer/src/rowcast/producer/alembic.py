"""Add operations to Alembic: create, tune and drop the outbox, install triggers, and drop triggers.

The operations are ``op.rowcast_create_tables()``, ``op.rowcast_drop_tables()``, ``op.rowcast_tune_outbox()``,
``op.rowcast_install_triggers("orders")`` and ``op.rowcast_drop_triggers("orders")``. Import the module in ``env.py`` or
in the migration. Requires the extra ``rowcast[alembic]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from alembic.operations import MigrateOperation, Operations
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects.transaction_ids import DISPLACED_TABLE, TRANSACTION_TABLE
from rowcast.producer.outbox.schema import outbox_tables, tune
from rowcast.producer.triggers.install import drop, install
from rowcast.producer.triggers.reflected_tables import ReflectedTables
from rowcast.producer.triggers.salts import SALT_TABLE
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.own_tables import is_rowcast_table


def include_name(name: str | None, type_: str, _parents: Mapping[str, str | None]) -> bool:
    """Leave the helper tables of triggers out of autogenerate: ``context.configure(include_name=…)``."""
    return not (type_ == "table" and name in (TRANSACTION_TABLE, DISPLACED_TABLE, SALT_TABLE))


def include_object(
    object_: sa.schema.SchemaItem, name: str | None, type_: str, _reflected: bool, _compare_to: object
) -> bool:
    """Leave all tables of rowcast out of autogenerate: ``context.configure(include_object=…)``.

    Use it where the migrations do not create the outbox, because autogenerate would otherwise drop it. The function
    also leaves out the indexes and constraints of these tables.
    """
    table = object_ if isinstance(object_, sa.Table) else getattr(object_, "table", None)
    return not is_rowcast_table(str(name if table is None else table.name))


@Operations.register_operation("rowcast_create_tables")
class CreateTables(MigrateOperation):
    """Create the outbox tables."""

    @classmethod
    def rowcast_create_tables(cls, operations: Operations) -> None:
        """Create the outbox tables in the default schema, and tune them. ``target_metadata`` need not have them."""
        operations.invoke(cls())

    def reverse(self) -> DropTables:
        """Return the operation that drops the tables."""
        return DropTables()


@Operations.register_operation("rowcast_drop_tables")
class DropTables(MigrateOperation):
    """Drop the outbox tables."""

    @classmethod
    def rowcast_drop_tables(cls, operations: Operations) -> None:
        """Drop the outbox tables with all that is not published yet. Drop the triggers of captured tables before."""
        operations.invoke(cls())


@Operations.register_operation("rowcast_install_triggers")
class InstallTriggers(MigrateOperation):
    """Install triggers on tables, or replace them after the migration has changed the tables."""

    def __init__(
        self,
        tables: Iterable[str],
        schema: str | None,
        settings: Mapping[str, TableSettings | Mapping[str, Any]],
        instead_of_listeners: bool,
        owner: str | None = None,
    ) -> None:
        self.tables = tuple(tables)
        self.schema = schema
        self.settings = settings
        self.instead_of_listeners = instead_of_listeners
        self.owner = owner

    @classmethod
    def rowcast_install_triggers(
        cls,
        operations: Operations,
        *tables: str,
        schema: str | None = None,
        settings: Mapping[str, TableSettings | Mapping[str, Any]] | None = None,
        instead_of_listeners: bool = False,
        owner: str | None = None,
    ) -> None:
        """Install triggers for the columns of the tables at the current point of the migration.

        If ``target_metadata`` has a table, its types are used. ``settings`` are those of ``Capture(tables=…)``.
        ``owner``: the role that owns the triggers' functions on PostgreSQL. None: the present owner, or the installing
        role. Raises ConfigurationError if a table does not exist or cannot be captured by triggers.
        """
        operations.invoke(cls(tables, schema, settings or {}, instead_of_listeners, owner))

    def reverse(self) -> DropTriggers:
        """Return the operation that drops the triggers."""
        return DropTriggers(self.tables, self.schema)


@Operations.register_operation("rowcast_drop_triggers")
class DropTriggers(MigrateOperation):
    """Drop the triggers of tables."""

    def __init__(self, tables: Iterable[str], schema: str | None) -> None:
        self.tables = tuple(tables)
        self.schema = schema

    @classmethod
    def rowcast_drop_triggers(cls, operations: Operations, *tables: str, schema: str | None = None) -> None:
        """Drop the triggers. Then nobody captures the tables until triggers are installed or listeners write."""
        operations.invoke(cls(tables, schema))


@Operations.register_operation("rowcast_tune_outbox")
class TuneOutbox(MigrateOperation):
    """Set how PostgreSQL vacuums, fills and compresses the outbox tables, as ``metadata.create_all`` does."""

    @classmethod
    def rowcast_tune_outbox(cls, operations: Operations) -> None:
        """Tune the outbox tables. Call the operation after creating the tables. Engines except PostgreSQL ignore it."""
        operations.invoke(cls())


@Operations.implementation_for(TuneOutbox)
def _tune(operations: Operations, _operation: TuneOutbox) -> None:
    connection = _connection(operations, "the server must be asked whether it can compress by lz4", "")
    for table in outbox_tables(sa.MetaData()):
        tune(table, connection)


@Operations.implementation_for(CreateTables)
def _create(operations: Operations, _operation: CreateTables) -> None:
    _connection(operations, "the server must be asked how it stores the outbox", "")
    for table in outbox_tables(sa.MetaData()):
        # The event after_create tunes the table.
        operations.impl.create_table(table)


@Operations.implementation_for(DropTables)
def _drop_tables(operations: Operations, _operation: DropTables) -> None:
    for table in outbox_tables(sa.MetaData()):
        operations.impl.drop_table(table)


@Operations.implementation_for(InstallTriggers)
def _install(operations: Operations, operation: InstallTriggers) -> None:
    connection = _connection(operations)
    for name in operation.tables:
        definitions = ReflectedTables(_metadata_of(operations, name, operation.schema), operation.settings)
        (table,) = definitions.read(connection, [(operation.schema, name)])
        install(connection, table, instead_of_listeners=operation.instead_of_listeners, owner=operation.owner)


@Operations.implementation_for(DropTriggers)
def _drop(operations: Operations, operation: DropTriggers) -> None:
    connection = _connection(operations)
    schema = operation.schema or default_schema(connection.dialect)
    for name in operation.tables:
        drop(connection, f"{schema}.{name}")


_TRIGGERS = "triggers are created from the tables in the database"
_COMMAND = ", or install them by the command: rowcast triggers install"


def _connection(operations: Operations, why: str = _TRIGGERS, otherwise: str = _COMMAND) -> Connection:
    connection = operations.migration_context.connection
    if connection is None or operations.migration_context.as_sql:
        raise ConfigurationError(f"{why}, but --sql does not connect to it. Run this migration online{otherwise}")
    return connection


def _metadata_of(operations: Operations, name: str, schema: str | None) -> sa.MetaData | None:
    """Return the metadata of env.py with the table, or None."""
    target = operations.migration_context.opts.get("target_metadata")
    candidates = target if isinstance(target, list | tuple) else [target]
    key = f"{schema}.{name}" if schema else name
    return next((m for m in candidates if isinstance(m, sa.MetaData) and key in m.tables), None)
