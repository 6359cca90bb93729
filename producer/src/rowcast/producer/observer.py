"""What each statement does to captured tables: DML is understood, of SQL text only the tables' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Compiled, Connection
from sqlalchemy.sql.dml import UpdateBase

from rowcast.producer import ctes, statements
from rowcast.producer.announcements import Announcer
from rowcast.producer.changes import Changes
from rowcast.producer.connections import OpenTransactions
from rowcast.producer.locked_reads import OWN_OPTION
from rowcast.producer.named_rows import IGNORE, OPTION, named_rows, touch
from rowcast.producer.pending import TRANSLATE, CapturedOf
from rowcast.producer.returned_images import ReturnedImages
from rowcast.producer.sql_text import changed_tables
from rowcast.producer.tables import CapturedTable
from rowcast.producer.touched import Touched
from rowcast.shared.errors import CaptureError

_OPTIONS = frozenset((OWN_OPTION, OPTION, TRANSLATE))
"""Execution options with which a statement means something else."""


class Observer:
    """Notes what one engine's statements touch; its methods have the names and arguments of the engine's events."""

    def __init__(
        self,
        metadata: sa.MetaData,
        outbox: sa.Table,
        captured: CapturedOf,
        transactions: OpenTransactions,
        make_room: Callable[[Connection, Touched], None],
        announcer: Announcer,
        images: ReturnedImages,
        may_write: Callable[[CapturedTable], bool],
    ) -> None:
        self._metadata = metadata
        self._captured = captured
        self._transactions = transactions
        self._make_room = make_room
        self._announcer = announcer
        self._changes = Changes(metadata, outbox, captured, announcer, images, may_write)

    def before_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, execution_options: Any
    ) -> tuple[Any, Any, Any]:
        if statement.__class__ is sa.Select:
            # Before anything else: most statements are. DML in its CTEs is seen later.
            return statement, multiparams, params
        notes = self._transactions.of(connection)
        if notes.expected is not None or notes.waiting:
            # It may be tried again, with other parameters.
            self._changes.untold(connection, notes, statement)
        if _OPTIONS.isdisjoint(execution_options):
            # The unit of work's, which come again and again.
            table = self._changes.expect(statement, multiparams or [params or {}], notes)
            if table is not None:
                self._make_room(connection, notes)
                _refuse_what_is_not_atomic(connection, table)
                return statement, multiparams, params
        statement = statements.resolved(statement)
        changing = statements.dml_of(statement)
        if isinstance(statement, Compiled):
            self._see_compiled(connection, statement, execution_options)
        if changing is not None and OWN_OPTION not in execution_options:
            translation = execution_options.get(TRANSLATE)
            table = self._captured(connection, statements.table_of(changing), translation)
            if table is not None:
                self._make_room(connection, notes)
                _refuse_what_is_not_atomic(connection, table)
                if OPTION in execution_options:
                    self._take_the_applications_word(connection, execution_options)
                else:
                    sets = statements.parameter_sets(multiparams, params)
                    instead, fewer = self._changes.before(connection, changing, table, sets, execution_options, notes)
                    statement = statements.with_dml(statement, instead)
                    if fewer is not sets:
                        multiparams, params = [], dict(fewer[0])
        return statement, multiparams, params

    def after_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, execution_options: Any, result: Any
    ) -> None:
        notes = self._transactions.get(connection)
        if notes is None:
            return
        seen = notes.expected is not None and notes.expected.statement is statement
        if seen:
            self._changes.as_expected(result, notes)
        if not notes.waiting and (seen or statement.__class__ is sa.Select):
            return
        if OWN_OPTION in execution_options:
            return
        dml = statements.dml_of(statement)
        if notes.waiting:
            seen = self._changes.after(connection, dml, result, notes) or seen
        if dml is not None and not seen and OPTION not in execution_options:
            self._refuse_what_was_replaced(connection, dml, execution_options, notes)

    def _refuse_what_was_replaced(
        self, connection: Connection, dml: UpdateBase, execution_options: Any, notes: Touched
    ) -> None:
        """What was executed is not what ``before_execute`` has seen."""
        table = self._captured(connection, statements.table_of(dml), execution_options.get(TRANSLATE))
        if table is not None:
            error = CaptureError(
                f"after the capture had looked at a statement on {table.full_name}, another listener put its own in "
                "its place: which rows it changed is not known. Add that listener before the capture is installed."
            )
            notes.refuse(error)
            raise error

    def handle_error(self, context: Any) -> None:
        execution, connection = context.execution_context, context.connection
        notes = None if connection is None else self._transactions.get(connection)
        if notes is not None and (notes.waiting or notes.expected) and execution is not None:
            dml = statements.dml_of(execution.invoked_statement)
            self._changes.failed(connection, dml, notes, in_part=execution.executemany)

    def ends(self, connection: Connection, notes: Touched) -> None:
        """The transaction is about to end. Raises as ``Announcer.unseen``."""
        if notes.expected is not None or notes.waiting:
            self._changes.untold(connection, notes)

    def before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> tuple[str, Any]:
        notes = self._transactions.get(connection)
        if context is not None and statements.is_one_alone(context.compiled):
            if notes is not None and notes.waiting:
                statement = self._changes.with_keys(connection, statement, context, notes, alone=True)
            return statement, parameters
        if context is None or OWN_OPTION in (options := context.execution_options):
            return statement, parameters
        of_ctes = ctes.ctes_of(context)
        if statements.is_text(context) or (of_ctes and any(map(ctes.is_text, of_ctes))):
            self._see_text(connection, statement, options)
        elif OPTION not in options:
            for cte in filter(ctes.changes_rows, of_ctes):
                known = ctes.named_parameters(context)
                notes = self._transactions.of(connection)
                statement = self._changes.before_cte(connection, statement, cte, known, options, notes)
            if notes is not None and notes.waiting:
                statement = self._changes.with_keys(connection, statement, context, notes, alone=False)
        elif of_ctes and not isinstance(context.invoked_statement, UpdateBase):
            self._take_the_applications_word(connection, options)
        return statement, parameters

    def _see_compiled(self, connection: Connection, compiled: Compiled, options: Mapping[str, Any]) -> None:
        """SQLAlchemy 2.0 executes what was compiled before; nothing can be added to it any more."""
        dml = statements.dml_of(compiled.statement)
        if dml is None or OWN_OPTION in options:
            return
        table = self._captured(connection, statements.table_of(dml), options.get(TRANSLATE))
        if table is None:
            return
        _refuse_what_is_not_atomic(connection, table)
        if OPTION in options:
            self._take_the_applications_word(connection, options)
        else:
            self._announcer.unseen(table.full_name, "a statement that was compiled beforehand", str(compiled))

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
                touch(connection, captured, keys, self._transactions.of(connection))
        return set(named)


def _refuse_what_is_not_atomic(connection: Connection, table: CapturedTable) -> None:
    if connection._is_autocommit_isolation():
        raise CaptureError(
            f"{table.full_name} is captured, and this connection is in AUTOCOMMIT: its changes and their record in "
            "the outbox could not be one transaction. Use a transaction, or uninstall the capture from this engine."
        )
