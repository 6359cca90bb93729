"""Install the triggers of a program's tables from its own connections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine

from rowcast.producer.capture.reflecting import defines_tables
from rowcast.producer.tables.captured import CapturedTable, CapturedTables
from rowcast.producer.tables.merged_metadata import merge_metadata
from rowcast.producer.tables.reflection import reflect_tables
from rowcast.producer.triggers.install import install
from rowcast.producer.triggers.reflected_tables import ReflectedTables
from rowcast.producer.triggers.state import trigger_states
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.database.schema_names import default_schema


class TriggersOfProgram:
    """Install triggers on all tables without them, and renew them after the program has defined tables.

    ``metadata``: the program's metadata, or none if unknown. The relay's first snapshot of a table reads the rows from
    before the triggers.
    """

    def __init__(self, metadata: Sequence[sa.MetaData], configured: Mapping[str, TableSettings]) -> None:
        self._models = [merge_metadata(metadata)] if metadata else []
        self._configured = configured
        self._engines: WeakSet[Engine] = WeakSet()
        self._outdated = False

    def install(self, connection: Connection) -> None:
        """Install missing triggers on a connection outside a transaction. Watch its engine from now on.

        Raises ConfigurationError if a table cannot be captured, or if the role lacks a right.
        """
        engine = getattr(connection.engine, "_proxied", connection.engine)
        if engine not in self._engines:
            self._renew(connection)
            self._engines.add(engine)
            event.listen(engine, "before_cursor_execute", self._before_cursor_execute)

    def renew(self, connection: Connection) -> None:
        """Renew outdated triggers, if the program has defined tables meanwhile."""
        if self._outdated and getattr(connection.engine, "_proxied", connection.engine) in self._engines:
            self._renew(connection)
            # The statements for triggers are rowcast's own.
            self._outdated = False

    def _renew(self, connection: Connection) -> None:
        missing = self._tables_without(connection)
        connection.rollback()
        if missing:
            with _transactions(connection):
                for table in missing:
                    self._install(connection, table)

    def _tables_without(self, connection: Connection) -> list[CapturedTable]:
        """Return the tables whose triggers are missing or outdated."""
        found = reflect_tables(connection, self._models)
        tables = CapturedTables(found, self._configured)
        tables.check_keys()
        default = default_schema(connection.dialect)
        captured = [tables.captured_table(table, connection.dialect, default) for table in tables]
        fit = {state.table for state in trigger_states(connection, self._definitions()) if not state.faults}
        return [table for table in captured if table.full_name not in fit]

    def _definitions(self) -> ReflectedTables:
        return ReflectedTables(self._models[0] if self._models else None, self._configured)

    def _install(self, connection: Connection, table: CapturedTable) -> None:
        try:
            install(connection, table)
            connection.commit()
        except exc.DBAPIError:
            # Another process of the program may have installed the triggers meanwhile.
            connection.rollback()
            states = {state.table: state for state in trigger_states(connection, self._definitions())}
            if table.full_name not in states or states[table.full_name].faults:
                raise

    def _before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        if defines_tables(statement):
            self._outdated = True


@contextmanager
def _transactions(connection: Connection) -> Iterator[None]:
    """Let the connection of a program in AUTOCOMMIT have transactions in the block."""
    if not connection._is_autocommit_isolation():
        yield
        return
    connection.execution_options(isolation_level=connection.default_isolation_level)
    try:
        yield
    finally:
        connection.execution_options(isolation_level="AUTOCOMMIT")
