"""Find out the rows changed by each DML statement, in steps before, during and after the execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.sql.dml import Delete, Insert, Update, UpdateBase
from sqlalchemy.sql.selectable import CTE

from rowcast.producer.capture.dml import ctes, inspection, results
from rowcast.producer.capture.dml.cascaded_rows import CascadedRows
from rowcast.producer.capture.dml.changed_rows import ReturnedRows
from rowcast.producer.capture.dml.engine_scope import SCHEMA_TRANSLATE_MAP, EngineScope
from rowcast.producer.capture.dml.fast_path import FastPath
from rowcast.producer.capture.dml.foreign_key_actions import ForeignKeyActions
from rowcast.producer.capture.dml.insert_keys import InsertKeys
from rowcast.producer.capture.dml.inspection import Parameters
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.dml.returned_keys import AppendedReturning
from rowcast.producer.capture.dml.row_counts import note_counted
from rowcast.producer.capture.dml.update_keys import UpdateKeys
from rowcast.producer.capture.drain.bulk_update import BulkUpdate
from rowcast.producer.capture.notes.transaction_notes import Note, TransactionNotes
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.stored_keys import read_catalogue
from rowcast.shared.errors import CaptureError


class DmlTracker:
    """Note the keys of each statement on a captured table.

    A statement takes the fast path (``fast_path.expect``, ``note_expected``) or the full path (``prepare``,
    ``note_executed``).
    """

    def __init__(self, scope: EngineScope, bulk_update: BulkUpdate) -> None:
        self._scope = scope
        self._bulk_update = bulk_update
        self._cascades = cascades = CascadedRows(scope)
        self._insert_keys = InsertKeys(cascades, scope)
        self._update_keys = UpdateKeys(cascades, scope)
        self.fast_path = FastPath(cascades, self._insert_keys.reported_rows)

    # -- the fast path

    def note_expected(self, result: CursorResult[Any], notes: TransactionNotes) -> None:
        """Note the keys of the executed expected statement."""
        assert notes.expected is not None
        statement, table, touch, keys = notes.expected
        notes.expected = None
        rows = result.context.rowcount
        # SQLAlchemy has often closed the cursor of an INSERT, and the driver then knows no number. An INSERT or upsert
        # on the fast path writes the row of each key, or fails.
        if rows == len(keys) or (rows < 0 and statement.is_insert):
            notes.entries.append(Note(table, touch, keys, True))
            notes.key_count += len(keys)
        else:
            note_counted(table, touch, keys, result, notes)

    # -- the full path

    def prepare(
        self,
        connection: Connection,
        statement: UpdateBase,
        stored: CapturedTable,
        sets: Parameters,
        execution_options: Mapping[str, Any],
        notes: TransactionNotes,
    ) -> tuple[UpdateBase, Parameters]:
        """Take the step before a statement. Return the statement and parameter sets to execute in its place.

        ``stored``: the statement's table in the schema that the ``schema_translate_map`` gives it. Reads keys and
        before images if the statement would change them. Raises CaptureError for a statement that cannot be captured at
        all. Refuses or warns of a statement with unknown rows.
        """
        translation = execution_options.get(SCHEMA_TRANSLATE_MAP)
        pending = PendingStatement(statement, stored.untranslated, stored, sets, {SCHEMA_TRANSLATE_MAP: translation})
        _complete_keys(connection, pending, notes)
        # A statement on the fast path would not ask whether its rows are hidden.
        is_secured = self._scope.row_security.refuse_hidden(connection, stored)
        if not is_secured and self.fast_path.recognize(pending, connection.dialect):
            notes.pending.append(pending)
            return statement, sets
        if isinstance(statement, Insert):
            single_rows = self._insert_keys.choose(connection, pending, statement)
        elif isinstance(statement, Update | Delete):
            single_rows = self._update_keys.choose(connection, pending, statement)
        else:
            pending.refuse_or_warn(self._scope.strictness, "a statement of an unknown kind")
            notes.note_unseen_change()
            return statement, sets
        if single_rows is not None:
            return self._execute_row_by_row(connection, single_rows, stored, execution_options, notes)
        pending.read_before_images(connection)
        self._allow_bulk_update(connection, pending, notes)
        notes.pending.append(pending)
        return pending.statement, pending.sets

    def _allow_bulk_update(self, connection: Connection, pending: PendingStatement, notes: TransactionNotes) -> None:
        """Let an UPDATE write outbox rows, unless earlier changes are noted, because the earlier must come first."""
        rows = pending.rows
        if (
            isinstance(rows, ReturnedRows)
            and isinstance(rows.returned, AppendedReturning)
            and isinstance(pending.statement, Update)
            and not (pending.side_effects or notes.entries)
            and self._bulk_update.supports(connection, pending.stored)
        ):
            rows.returned.bulk_update = self._bulk_update

    @property
    def actions(self) -> ForeignKeyActions:
        """The actions of the metadata's foreign keys."""
        return self._cascades.actions

    def prepare_cte(
        self,
        connection: Connection,
        sql: str,
        cte: CTE,
        stored: CapturedTable,
        context: Any,
        notes: TransactionNotes,
    ) -> str:
        """Take the step before DML in a CTE. Return the text to execute in place of ``sql``, the outer statement.

        ``stored``: the captured table, as in ``prepare``. ``context``: SQLAlchemy's execution context.
        """
        statement: Any = cte.element
        translation = context.execution_options.get(SCHEMA_TRANSLATE_MAP)
        parameters, options = ctes.named_parameters(context), {SCHEMA_TRANSLATE_MAP: translation}
        pending = PendingStatement(statement, stored.untranslated, stored, [parameters], options)
        _complete_keys(connection, pending, notes)
        setting = f"rowcast.keys_{len(notes.pending)}"
        key = ctes.returned_key(cte, pending.key_columns)
        storing_sql = None
        if key is not None:
            name = ctes.name_of(cte, context.compiled)
            columns, outbox = pending.stored_columns, self._scope.outbox.outbox
            storing_sql = ctes.store_keys(sql, name, key, columns, setting, outbox, connection.dialect)
        if storing_sql is None:
            what = "DML in a common table expression that does not return the primary key"
            pending.refuse_or_warn(self._scope.strictness, what)
            notes.note_unseen_change()
            return sql
        self._scope.row_security.refuse_hidden(connection, stored)
        pending.setting = setting
        if isinstance(statement, Insert):
            self._insert_keys.choose(connection, pending, statement)
        else:
            self._update_keys.choose(connection, pending, statement)
        pending.read_before_images(connection)
        notes.pending.append(pending)
        return storing_sql

    def extend_sql(self, connection: Connection, sql: str, context: Any, notes: TransactionNotes) -> str:
        """Return the text to be executed in place of ``sql``, with an added RETURNING of the keys."""
        if inspection.computes_default(context):
            return sql
        for pending in notes.pending:
            if not pending.rows.extends_sql:
                continue
            if pending.statement is inspection.dml_of(context.invoked_statement):
                extended: str = pending.rows.extend_sql(connection, sql, pending, context)
                return extended
        return sql

    def note_executed(
        self, connection: Connection, statement: UpdateBase | None, result: CursorResult[Any], notes: TransactionNotes
    ) -> bool:
        """Note the keys of the rows changed by the executed statement.

        Return False if the statement never was pending.
        """
        executed = notes.take_pending(statement)
        for pending in executed:
            pending.note_before_images(notes)
            try:
                pending.rows.note(connection, pending, result, notes)
            except CaptureError as error:
                # The application may catch the error and commit. Then the commit must fail too.
                notes.refuse_commit(error)
                raise
            if pending.changes_unseen:
                notes.note_unseen_change()
            if pending.rows_executed_before and result.rowcount >= 0:
                results.set_rowcount(result, result.rowcount + pending.rows_executed_before)
        return any(pending.statement is statement for pending in executed)

    def _execute_row_by_row(
        self,
        connection: Connection,
        single_rows: Sequence[tuple[UpdateBase, Mapping[str, Any]]],
        stored: CapturedTable,
        execution_options: Mapping[str, Any],
        notes: TransactionNotes,
    ) -> tuple[UpdateBase, Parameters]:
        """Execute all statements but the last, and prepare and return the last.

        The database reports the key of a single row where it does not return the keys of many.
        """
        rowcount = 0
        for statement, parameters in single_rows[:-1]:
            rowcount += connection.execute(statement, dict(parameters), execution_options=execution_options).rowcount
        last, parameters = single_rows[-1]
        prepared = self.prepare(connection, last, stored, [parameters], execution_options, notes)
        notes.pending[-1].rows_executed_before = rowcount
        return prepared

    # -- failures

    def note_failure(
        self, connection: Connection, statement: UpdateBase | None, notes: TransactionNotes, *, in_part: bool
    ) -> None:
        """Note the keys of rows that a failed statement may have changed.

        ``in_part``: the statement has many parameter sets and may have changed rows before the failure. The drain must
        read the rows at commit, because on most engines the transaction can continue.
        """
        failed, expected = notes.take_pending(statement), notes.expected
        if expected is not None and expected.statement is not statement:
            expected = None
        if expected is not None:
            notes.expected = None
        if not in_part or capture_dialect(connection.dialect).failure_ends_transaction:
            # The statement has changed nothing, or its changes will be rolled back, at least to a savepoint.
            return
        if expected is not None:
            notes.note(expected.table, expected.touch, expected.keys, locked=False)
        for pending in failed:
            pending.note_before_images(notes)
            if pending.rows.note_attempted(pending, notes):
                continue
            if len(pending.sets) > inspection.min_rows_in_a_batch(connection.dialect, pending.sets[0]):
                pending.refuse_or_warn(self._scope.strictness, "a failed INSERT of several rows")
            # Otherwise SQLAlchemy has sent all rows in a single statement, and the statement has changed nothing.

    def fail_unreported(
        self, connection: Connection, notes: TransactionNotes, statement: UpdateBase | None = None
    ) -> None:
        """Treat statements whose end was never reported as failed.

        ``statement``: treat only this statement. SQLAlchemy does not report every failure. Reflection on MariaDB and
        MySQL leaves an option on the application's connection that hides errors from all listeners. A failure before
        the statement reaches the database is never reported.
        """
        expected = notes.expected
        if expected is not None and (statement is None or expected.statement is statement):
            self.note_failure(connection, expected.statement, notes, in_part=len(expected.keys) > 1)
        for pending in notes.pending:
            if statement is None or pending.statement is statement:
                self.note_failure(connection, pending.statement, notes, in_part=len(pending.sets) > 1)


def _complete_keys(connection: Connection, pending: PendingStatement, notes: TransactionNotes) -> None:
    """Read what only the database knows of the table's keys, at the first statement on the table.

    The catalogue is read for all tables of a schema at once, but again in each transaction that uses a new table,
    because the table may be younger than the last reading.
    """
    for table in (pending.table, pending.stored):
        if not table.stored_keys.is_complete:
            schema = table.shape.schema
            catalogues = notes.key_catalogues = notes.key_catalogues or {}
            if schema not in catalogues:
                catalogues[schema] = read_catalogue(connection, schema)
            table.stored_keys.learn(catalogues[schema], table.shape.name)
