"""What each statement does to captured tables: DML is understood, of SQL text only the tables' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.dml import UpdateBase

from rowcast.producer import ctes, statements
from rowcast.producer.announcements import Announcer
from rowcast.producer.changes import Changes
from rowcast.producer.locked_reads import OWN_OPTION
from rowcast.producer.named_rows import IGNORE, OPTION, named_rows, touch
from rowcast.producer.pending import TRANSLATE, CapturedOf
from rowcast.producer.sql_text import changed_tables
from rowcast.producer.tables import CapturedTable
from rowcast.producer.touched import Touched
from rowcast.shared.errors import CaptureError


class Observer:
    """Notes what one engine's statements touch; its methods have the names and arguments of the engine's events."""

    def __init__(
        self,
        metadata: sa.MetaData,
        outbox: sa.Table,
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
        self._changes = Changes(metadata, outbox, captured, announcer)

    def forget(self, connection: Connection) -> None:
        """The transaction is over."""
        self._changes.forget(connection)

    def before_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, execution_options: Any
    ) -> tuple[Any, Any, Any]:
        statement = statements.resolved(statement)
        changing = statements.dml_of(statement)
        if changing is not None and OWN_OPTION not in execution_options:
            translation = execution_options.get(TRANSLATE)
            table = self._captured(connection, statements.table_of(changing), translation)
            if table is not None:
                self._make_room(connection)
                _refuse_what_is_not_atomic(connection, table)
                if OPTION in execution_options:
                    self._take_the_applications_word(connection, execution_options)
                else:
                    sets = statements.parameter_sets(multiparams, params)
                    instead, fewer = self._changes.before(connection, changing, table, sets, execution_options)
                    statement = statements.with_dml(statement, instead)
                    if fewer is not sets:
                        multiparams, params = [], dict(fewer[0])
        return statement, multiparams, params

    def after_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, execution_options: Any, result: Any
    ) -> None:
        if OWN_OPTION not in execution_options:
            self._changes.after(connection, statements.dml_of(statement), result, self._notes)

    def handle_error(self, context: Any) -> None:
        execution = context.execution_context
        if context.connection is not None and execution is not None and execution.executemany:
            self._changes.failed(context.connection, self._notes(context.connection))

    def before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> tuple[str, Any]:
        if context is None or OWN_OPTION in (options := context.execution_options):
            return statement, parameters
        of_ctes = ctes.ctes_of(context)
        if statements.is_text(context) or (of_ctes and any(map(ctes.is_text, of_ctes))):
            self._see_text(connection, statement, options)
        elif OPTION not in options:
            for cte in filter(ctes.changes_rows, of_ctes):
                known = ctes.named_parameters(context)
                statement = self._changes.before_cte(connection, statement, cte, known, options)
            if (dml := statements.dml_of(context.invoked_statement)) is not None:
                statement += self._changes.returning_to_append(connection, dml, context.compiled)
        elif of_ctes and not isinstance(context.invoked_statement, UpdateBase):
            self._take_the_applications_word(connection, options)
        return statement, parameters

    def _see_text(self, connection: Connection, statement: str, options: Mapping[str, Any]) -> None:
        named = self._take_the_applications_word(connection, options) if OPTION in options else set()
        if named is None:
            return
        for table in changed_tables(statement, self._metadata.tables.values(), connection.dialect):
            captured = self._captured(connection, table, options.get(TRANSLATE)) if table not in named else None
            if captured is not None:
                self._announcer.unseen(captured.full_name, "SQL text", statement)

    def _take_the_applications_word(self, connection: Connection, options: Mapping[str, Any]) -> set[sa.Table] | None:
        """Notes the rows that the option names and returns their tables; None if the statement is to be ignored."""
        if options[OPTION] == IGNORE:
            return None
        named = named_rows(options[OPTION])
        for table, keys in named.items():
            captured = self._captured(connection, table, options.get(TRANSLATE))
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
