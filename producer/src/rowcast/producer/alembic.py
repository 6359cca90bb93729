"""Alembic operations: ``op.rowcast_tune_outbox()``, ``op.rowcast_install_triggers("orders")`` and its inverse.

Import this module in ``env.py``, or in the migration. It needs the extra ``rowcast[alembic]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from alembic.operations import MigrateOperation, Operations
from sqlalchemy.engine import Connection

from rowcast.producer.outbox import outbox_tables, tune
from rowcast.producer.transaction_names import DISPLACED, TABLE
from rowcast.producer.triggers.definitions import Definitions
from rowcast.producer.triggers.installing import drop, install
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.table_settings import TableSettings


def include_name(name: str | None, type_: str, _parents: Mapping[str, str | None]) -> bool:
    """For ``context.configure(include_name=…)``: autogenerate leaves the tables alone that triggers bring along."""
    return not (type_ == "table" and name in (TABLE, DISPLACED))


@Operations.register_operation("rowcast_install_triggers")
class InstallTriggers(MigrateOperation):
    """Installs triggers on tables, or installs them anew after the migration has changed the tables."""

    def __init__(
        self,
        tables: Iterable[str],
        schema: str | None,
        settings: Mapping[str, TableSettings | Mapping[str, Any]],
        instead_of_listeners: bool,
    ) -> None:
        self.tables = tuple(tables)
        self.schema = schema
        self.settings = settings
        self.instead_of_listeners = instead_of_listeners

    @classmethod
    def rowcast_install_triggers(
        cls,
        operations: Operations,
        *tables: str,
        schema: str | None = None,
        settings: Mapping[str, TableSettings | Mapping[str, Any]] | None = None,
        instead_of_listeners: bool = False,
    ) -> None:
        """The columns are those that the database has at this point; ``target_metadata`` knows better what type some
        are of. ``settings``: what of each table leaves, as for ``Capture(tables=…)``.

        Raises ConfigurationError if a table is not there or cannot be captured by triggers.
        """
        operations.invoke(cls(tables, schema, settings or {}, instead_of_listeners))

    def reverse(self) -> DropTriggers:
        return DropTriggers(self.tables, self.schema)


@Operations.register_operation("rowcast_drop_triggers")
class DropTriggers(MigrateOperation):
    """Drops the triggers of tables, those that there are."""

    def __init__(self, tables: Iterable[str], schema: str | None) -> None:
        self.tables = tuple(tables)
        self.schema = schema

    @classmethod
    def rowcast_drop_triggers(cls, operations: Operations, *tables: str, schema: str | None = None) -> None:
        """From here on nobody captures the tables, until triggers are installed again or listeners write."""
        operations.invoke(cls(tables, schema))


@Operations.register_operation("rowcast_tune_outbox")
class TuneOutbox(MigrateOperation):
    """Tells PostgreSQL how the outbox tables are used, as ``metadata.create_all`` does."""

    @classmethod
    def rowcast_tune_outbox(cls, operations: Operations) -> None:
        """After the operations that create them. Other engines need no telling: there it does nothing."""
        operations.invoke(cls())


@Operations.implementation_for(TuneOutbox)
def _tune(operations: Operations, _operation: TuneOutbox) -> None:
    connection = _connection(operations, "whether the outbox can be compressed by lz4 is asked of the server", "")
    for table in outbox_tables(sa.MetaData()):
        tune(table, connection)


@Operations.implementation_for(InstallTriggers)
def _install(operations: Operations, operation: InstallTriggers) -> None:
    connection = _connection(operations)
    for name in operation.tables:
        definitions = Definitions(_metadata_of(operations, name, operation.schema), operation.settings)
        (table,) = definitions.read(connection, [(operation.schema, name)])
        install(connection, table, instead_of_listeners=operation.instead_of_listeners)


@Operations.implementation_for(DropTriggers)
def _drop(operations: Operations, operation: DropTriggers) -> None:
    connection = _connection(operations)
    schema = operation.schema or connection.dialect.default_schema_name or "main"
    for name in operation.tables:
        drop(connection, f"{schema}.{name}")


_TRIGGERS = "triggers are made from what the database says of its tables"
_COMMAND = ", or install them by the command: rowcast triggers install"


def _connection(operations: Operations, why: str = _TRIGGERS, otherwise: str = _COMMAND) -> Connection:
    connection = operations.migration_context.connection
    if connection is None or operations.migration_context.as_sql:
        raise ConfigurationError(f"{why}, which --sql does not connect to: run this migration online{otherwise}")
    return connection


def _metadata_of(operations: Operations, name: str, schema: str | None) -> sa.MetaData | None:
    """The one of env.py's that has the table."""
    target = operations.migration_context.opts.get("target_metadata")
    candidates = target if isinstance(target, list | tuple) else [target]
    key = f"{schema}.{name}" if schema else name
    return next((m for m in candidates if isinstance(m, sa.MetaData) and key in m.tables), None)
