"""Listen to the statements of an engine: note what DML changes, and find SQL text and other unknown rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Compiled, Connection
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import CTE

from rowcast.producer.capture.dml import ctes, inspection
from rowcast.producer.capture.dml.engine_scope import SCHEMA_TRANSLATE_MAP, EngineScope
from rowcast.producer.capture.dml.statement_tables import table_of
from rowcast.producer.capture.dml.tracker import DmlTracker
from rowcast.producer.capture.drain.bulk_update import BulkUpdate
from rowcast.producer.capture.notes.open_transactions import OpenTransactions
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from rowcast.producer.capture.other_schemas import OtherSchemas
from rowcast.producer.capture.row_hints import ROWCAST_OPTION
from rowcast.producer.capture.temporary_tables import refuse_hiding
from rowcast.producer.capture.transaction_check import TransactionCheck
from rowcast.producer.capture.transaction_ends import TransactionEnds
from rowcast.producer.capture.unknown_rows import UnknownRows
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.dialects.statement_options import INTERNAL_OPTION
from rowcast.shared.errors import CaptureError

_OPTIONS = frozenset((INTERNAL_OPTION, ROWCAST_OPTION, SCHEMA_TRANSLATE_MAP))
"""Execution options that rule the fast path out, because with them the same statement is to be captured otherwise."""


class StatementListeners:
    """Note the rows changed by an engine's statements.

    The public methods have the names and arguments of SQLAlchemy's events. ``bound_memory``: write the notes to the
    outbox if there are too many. It is called before each statement on a captured table. ``drain_late``: write the
    notes after a statement of a listener that runs between the drain and COMMIT.
    """

    def __init__(
        self,
        scope: EngineScope,
        transactions: OpenTransactions,
        bulk_update: BulkUpdate,
        check: TransactionCheck,
        ends: TransactionEnds,
        other_schemas: OtherSchemas,
        bound_memory: Callable[[Connection, TransactionNotes], None],
        drain_late: Callable[[Connection], None],
    ) -> None:
        self._transactions = transactions
        self._notes = transactions.attribute
        self._check = check
        self._ends = ends
        self._other_schemas = other_schemas
        self._bound_memory = bound_memory
        self._drain_late = drain_late
        self._bulk_update = bulk_update
        self.replace_scope(scope)

    def replace_scope(self, scope: EngineScope) -> None:
        """Track the tables of this scope from the next statement on."""
        self._scope = scope
        self._find_captured = scope.find_captured
        self._tracker = DmlTracker(scope, self._bulk_update)
        self._unknown = UnknownRows(scope, self._transactions, self._check, self._ends, self._tracker)

    def before_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, execution_options: Any
    ) -> tuple[Any, Any, Any]:
        """Take the step before a statement: expect the statement on the fast path, or prepare the full path."""
        if statement.__class__ is sa.Select:
            # SELECTs come first, because most statements are SELECTs. DML in CTEs is handled in before_cursor_execute.
            return statement, multiparams, params
        notes = self._transactions.get_or_create(connection)
        if notes.expected is not None or notes.pending:
            # After an unreported failure the application may execute the statement again, with different parameters.
            self._tracker.fail_unreported(connection, notes, statement)
        others = self._other_schemas
        if _OPTIONS.isdisjoint(execution_options) and not (others.has_any and others.may_be_changed(connection)):
            table = self._tracker.fast_path.expect(statement, multiparams or [params or {}], notes)
            if table is not None:
                self._bound_memory(connection, notes)
                if not notes.is_checked:
                    self._check.check_transaction(connection, table, notes)
                return statement, multiparams, params
        statement = inspection.resolved(statement)
        dml = inspection.dml_of(statement)
        if isinstance(statement, Compiled):
            self._unknown.refuse_or_hint_compiled(connection, statement, execution_options)
        if dml is not None and INTERNAL_OPTION not in execution_options:
            translation = execution_options.get(SCHEMA_TRANSLATE_MAP)
            table = self._find_captured(connection, table_of(dml), translation)
            if table is not None:
                self._bound_memory(connection, notes)
                self._check.check(connection, table, notes)
                if ROWCAST_OPTION in execution_options:
                    self._unknown.apply_hint(connection, execution_options)
                else:
                    sets = inspection.parameter_sets(multiparams, params)
                    new_dml, new_sets = self._tracker.prepare(connection, dml, table, sets, execution_options, notes)
                    statement = inspection.with_dml(statement, new_dml)
                    if new_sets is not sets:
                        multiparams, params = [], dict(new_sets[0])
            else:
                sets = inspection.parameter_sets(multiparams, params)
                self._unknown.refuse_or_hint_others(connection, dml, sets, execution_options)
        elif notes.is_checked and isinstance(statement, ExecutableDDLElement):
            self._ends.expect(connection, notes, None)
        return statement, multiparams, params

    def after_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, execution_options: Any, result: Any
    ) -> None:
        """Note the keys of rows changed by the executed statement."""
        notes: TransactionNotes | None = connection.__dict__.get(self._notes)
        if notes is None:
            return
        expected = notes.expected
        known = expected is not None and expected.statement is statement
        if known:
            self._tracker.note_expected(result, notes)
            if notes.is_late:
                self._drain_late(connection)
        if not notes.pending and (known or statement.__class__ is sa.Select):
            return
        if INTERNAL_OPTION in execution_options:
            return
        dml = inspection.dml_of(statement)
        if notes.pending:
            known = self._tracker.note_executed(connection, dml, result, notes) or known
        if dml is not None and not known and ROWCAST_OPTION not in execution_options:
            self._refuse_replaced(connection, dml, execution_options, notes)
        if notes.is_late:
            self._drain_late(connection)

    def _refuse_replaced(
        self, connection: Connection, dml: UpdateBase, execution_options: Any, notes: TransactionNotes
    ) -> None:
        """Raise CaptureError if executed DML on a captured table was not seen by ``before_execute``."""
        table = self._find_captured(connection, table_of(dml), execution_options.get(SCHEMA_TRANSLATE_MAP))
        if table is not None:
            error = CaptureError(
                f"after the capture had inspected a statement on {table.full_name}, another listener replaced the "
                "statement, so the changed rows are not known. Add that listener before the capture is installed."
            )
            notes.refuse_commit(error)
            raise error

    def handle_error(self, context: Any) -> None:
        """Note the keys of rows that a failed statement may have changed.

        ``context``: SQLAlchemy's exception context.
        """
        execution, connection = context.execution_context, context.connection
        notes = None if connection is None else self._transactions.get(connection)
        if notes is not None and notes.is_checked and isinstance(context.sqlalchemy_exception, exc.DBAPIError):
            dialect = capture_dialect(connection.dialect)
            if not context.is_disconnect and dialect.has_ended_at(connection, context.sqlalchemy_exception):
                notes.restart()
        if notes is not None and (notes.pending or notes.expected) and execution is not None:
            dml = inspection.dml_of(execution.invoked_statement)
            self._tracker.note_failure(connection, dml, notes, in_part=execution.executemany)

    def fail_unreported(self, connection: Connection, notes: TransactionNotes) -> None:
        """Refuse or warn of statements whose failure was not reported, as ``StrictnessRule.refuse_or_warn`` does.

        The transaction is about to end.
        """
        self._tracker.fail_unreported(connection, notes)

    def before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> tuple[str, Any]:
        """Extend the text to return keys, and find SQL text and DML in CTEs, before the driver executes it."""
        notes: TransactionNotes | None = connection.__dict__.get(self._notes)
        if context is not None and inspection.is_single_statement(context.compiled):
            if notes is not None and notes.pending:
                statement = self._tracker.extend_sql(connection, statement, context, notes)
            return statement, parameters
        if context is not None and context.isddl and not inspection.is_text(context):
            refuse_hiding(connection, statement, context.execution_options, self._scope)
            return statement, parameters
        if context is None or INTERNAL_OPTION in (options := context.execution_options):
            return statement, parameters
        self._other_schemas.note_text(connection, statement, parameters)
        of_ctes = ctes.ctes_of(context)
        if inspection.is_text(context) or (of_ctes and any(map(ctes.is_text, of_ctes))):
            self._unknown.refuse_or_hint_text(connection, statement, options)
            if notes is not None and notes.is_checked:
                self._ends.expect(connection, notes, statement)
        elif ROWCAST_OPTION not in options:
            for cte in filter(ctes.changes_rows, of_ctes):
                notes = self._transactions.get_or_create(connection)
                statement = self._prepare_cte(connection, statement, cte, context, notes)
            if notes is not None and notes.pending:
                statement = self._tracker.extend_sql(connection, statement, context, notes)
        elif of_ctes and inspection.dml_of(context.invoked_statement) is None:
            self._unknown.apply_hint(connection, options)
        return statement, parameters

    def _prepare_cte(self, connection: Connection, sql: str, cte: CTE, context: Any, notes: TransactionNotes) -> str:
        """Take the step before DML in a CTE. Return the text to execute in place of ``sql``, the outer statement."""
        options = context.execution_options
        dml: Any = cte.element
        table = self._find_captured(connection, table_of(dml), options.get(SCHEMA_TRANSLATE_MAP))
        if table is not None:
            return self._tracker.prepare_cte(connection, sql, cte, table, context, notes)
        self._unknown.refuse_or_hint_others(connection, dml, [ctes.named_parameters(context)], options)
        return sql
