"""What each statement does to captured tables: DML is understood, of SQL text only the tables' names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.dml import UpdateBase

from rowcast.producer import statements
from rowcast.producer.announcements import Announcer
from rowcast.producer.changes import CapturedOf, Changes
from rowcast.producer.locked_reads import OWN
from rowcast.producer.named_rows import IGNORE, OPTION, named_rows, touch
from rowcast.producer.sql_text import changed_tables
from rowcast.producer.tables import CapturedTable
from rowcast.producer.touched import Touched
from rowcast.shared.errors import CaptureError


class Observer:
    """Notes what one engine's statements touch; its methods have the names and arguments of the engine's events."""

    def __init__(
        self,
        metadata: sa.MetaData,
        captured: CapturedOf,
        notes: Callable[[Connection], Touched],
        make_room: Callable[[Connection], None],
        announcer: Announcer,
    ) -> None:
        self._metadata = metadata
        self._captured = captured
        self._notes = notes
        self._make_room = make_room
        self._announcer = announcer
        self._changes = Changes(metadata, captured, announcer)

    def forget(self, connection: Connection) -> None:
        """The transaction is over."""
        self._changes.forget(connection)

    def before_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, execution_options: Any
    ) -> tuple[Any, Any, Any]:
        statement = statements.resolved(statement)
        if isinstance(statement, UpdateBase) and not OWN.keys() <= execution_options.keys():
            table = self._captured(connection, statements.table_of(statement))
            if table is not None:
                self._make_room(connection)
                _refuse_what_is_not_atomic(connection, table)
                if OPTION in execution_options:
                    self._take_the_applications_word(connection, execution_options[OPTION])
                else:
                    if execution_options.get("schema_translate_map"):
                        what = "a statement with schema_translate_map"
                        self._announcer.unseen(table.full_name, what, str(statement))
                    sets = statements.parameter_sets(multiparams, params)
                    statement = self._changes.before(connection, table, statement, sets, self._notes(connection))
        return statement, multiparams, params

    def after_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, execution_options: Any, result: Any
    ) -> None:
        if isinstance(statement, UpdateBase):
            self._changes.after(connection, statement, result, self._notes(connection))
        for inner in statements.dml_inside(result):
            table = self._captured(connection, statements.table_of(inner))
            if table is not None:
                self._announcer.unseen(table.full_name, "DML inside a common table expression", str(statement))

    def handle_error(self, context: Any) -> None:
        execution = context.execution_context
        if context.connection is not None and execution is not None and execution.executemany:
            self._changes.failed(context.connection, self._notes(context.connection))

    def before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        if context is None or not statements.is_text(context):
            return
        options = context.execution_options
        if OWN.keys() <= options.keys():
            return
        named = self._take_the_applications_word(connection, options[OPTION]) if OPTION in options else set()
        if named is None:
            return
        for table in changed_tables(statement, self._metadata.tables.values(), connection.dialect):
            captured = self._captured(connection, table) if table not in named else None
            if captured is not None:
                self._announcer.unseen(captured.full_name, "SQL text", statement)

    def _take_the_applications_word(self, connection: Connection, option: Any) -> set[sa.Table] | None:
        """Notes the rows that the option names and returns their tables; None if the statement is to be ignored."""
        if option == IGNORE:
            return None
        named = named_rows(option)
        for table, keys in named.items():
            captured = self._captured(connection, table)
            if captured is not None:
                _refuse_what_is_not_atomic(connection, captured)
                touch(connection, captured, keys, self._notes(connection))
        return set(named)


def _refuse_what_is_not_atomic(connection: Connection, table: CapturedTable) -> None:
    if connection._is_autocommit_isolation():
        raise CaptureError(
            f"{table.full_name} is captured, and this connection is in AUTOCOMMIT: its changes and their record in "
            "the outbox could not be one transaction. Use a transaction, or uninstall the capture from this engine."
        )
