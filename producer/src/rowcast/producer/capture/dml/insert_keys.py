"""Choose how the capture finds the keys of an INSERT, and lock the rows changed by an upsert or a REPLACE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.sql.dml import Insert, UpdateBase

from rowcast.producer.capture.dml import insert_inspection, inspection, unique_conflicts
from rowcast.producer.capture.dml.cascaded_rows import CascadedRows
from rowcast.producer.capture.dml.changed_rows import InsertedRows, RedirectedRows, UnseenRows
from rowcast.producer.capture.dml.engine_scope import EngineScope
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.dml.returned_keys import (
    REPORTED,
    SENT,
    ExtendedOwnReturning,
    InjectedReturning,
    KeysStoredByCte,
    LastInsertedKey,
    OwnReturning,
    ReadBackKeys,
    ReturnedKeys,
)
from rowcast.producer.capture.dml.unreturned_keys import MatchedKeys, find_unreturned
from rowcast.producer.database.dialects import capture_dialect


class InsertKeys:
    """Choose for the INSERTs of an engine."""

    def __init__(self, cascades: CascadedRows, scope: EngineScope) -> None:
        self._cascades = cascades
        self._strictness = scope.strictness
        self._may_replace = scope.replaced_statements.may_replace
        self.reported_rows = InsertedRows(scope.strictness)
        """The way for all INSERTs whose keys are in the parameters, or that SQLAlchemy reports."""

    def choose(
        self, connection: Connection, pending: PendingStatement, statement: Insert
    ) -> list[tuple[UpdateBase, Mapping[str, Any]]] | None:
        """Set the way in which the keys become known, and lock conflicting rows.

        Return a list of statements of a single row, with parameters, if the statement must be executed row by row.
        Return None if not.
        """
        pending.rows = self.reported_rows
        assigned = insert_inspection.conflict_assigns(statement)
        if pending.setting is not None:
            self._use(pending, KeysStoredByCte(pending.setting))
        elif inspection.has_own_returning(statement):
            self._choose_for_own_returning(pending, statement)
        elif pending.stored.stored_keys.are_rewritten and self._may_replace(connection, pending.stored, "INSERT"):
            # RETURNING fails if a rule replaces the INSERT.
            self._choose_for_rule(pending, statement)
            return None
        else:
            single_rows = self._choose_without_own_returning(connection, pending, statement)
            if single_rows is not None:
                return single_rows
        self._watch_trigger(connection, pending)
        self._lock_conflicts(connection, pending, statement, assigned)
        return None

    def _choose_for_rule(self, pending: PendingStatement, statement: Insert) -> None:
        """Let the capture look for the rows under the sent keys, or refuse or warn of drawn keys."""
        known = insert_inspection.known_keys(statement, pending.key_columns, pending.sets)
        if known is not None or insert_inspection.has_single_row(statement, pending.sets):
            pending.rows = RedirectedRows(self._strictness, SENT)
        else:
            pending.refuse_or_warn(self._strictness, "an INSERT that a rule may replace")
            pending.rows = UnseenRows()

    def _watch_trigger(self, connection: Connection, pending: PendingStatement) -> None:
        """Let the capture look for rows that the statement does not return, if a trigger may have written them."""
        rows, stored = pending.rows, pending.stored
        if stored.stored_keys.are_rewritten and self._may_replace(connection, stored, "INSERTED ROW"):
            assert isinstance(rows, InsertedRows)
            pending.rows = RedirectedRows(self._strictness, rows.returned)

    def _choose_without_own_returning(
        self, connection: Connection, pending: PendingStatement, statement: Insert
    ) -> list[tuple[UpdateBase, Mapping[str, Any]]] | None:
        """Set the way, or return the statements of a single row, as ``choose`` does."""
        columns, sets, dialect = pending.key_columns, pending.sets, connection.dialect
        engine, upserts = capture_dialect(dialect), insert_inspection.is_upsert(statement)
        one_by_one = engine.executes_one_by_one or (engine.upserts_a_row_once and upserts)
        if upserts and len(sets) == 1 and dialect.insert_returning and not engine.reports_insert_id:
            # Only the statement knows the changed row.
            self._use(pending, InjectedReturning(one_by_one=one_by_one))
            return None
        draws_for_zero = insert_inspection.draws_a_key_for_zero(statement, pending, dialect)
        sends_keys = insert_inspection.sends_stored_values(statement, pending)
        knows_keys = not draws_for_zero and insert_inspection.has_known_keys(statement, columns, sets, dialect)
        if knows_keys and sends_keys:
            return None
        if engine.reports_insert_id and sends_keys and not draws_for_zero:
            unreturned = find_unreturned(pending, statement, dialect)
            if unreturned is not None:
                self._use(pending, unreturned)
                return None
        if dialect.insert_returning and (len(sets) == 1 or dialect.insert_executemany_returning):
            self._use(pending, InjectedReturning(one_by_one=one_by_one))
            return None
        if knows_keys:
            self._use(pending, ReadBackKeys(REPORTED))
            return None
        single_rows = insert_inspection.single_rows(statement, sets)
        if single_rows is None:
            pending.refuse_or_warn(self._strictness, "an INSERT from a SELECT whose keys are not returned")
        elif len(single_rows) > 1 or statement._multi_values:
            return list(single_rows)
        elif draws_for_zero or not upserts:
            self._use(pending, LastInsertedKey() if sends_keys else ReadBackKeys(LastInsertedKey()))
        elif not sends_keys or pending.stored.stored_keys.folding_columns:
            self._use(pending, ReadBackKeys(REPORTED))
        return None

    def _use(self, pending: PendingStatement, returned: ReturnedKeys) -> None:
        pending.rows = InsertedRows(self._strictness, returned)
        returned.prepare(pending)

    def _choose_for_own_returning(self, pending: PendingStatement, statement: Insert) -> None:
        columns = pending.key_columns
        if pending.stored_columns is columns and insert_inspection.returns_keys(statement, columns):
            self._use(pending, OwnReturning())
            return
        given = insert_inspection.given_keys(statement, columns, pending.sets)
        sends_keys = given is not None and insert_inspection.sends_stored_values(statement, pending)
        if sends_keys and not insert_inspection.is_upsert(statement):
            return
        self._use(pending, ExtendedOwnReturning())

    def _lock_conflicts(
        self, connection: Connection, pending: PendingStatement, statement: Insert, assigned: set[str]
    ) -> None:
        """Lock the rows that conflict with the new rows, where the returned keys do not suffice.

        The returned keys do not suffice if the statement deletes rows, changes keys or further tables, or returns
        nothing, or if before images are needed. Refuse or warn of the statement if only the database knows the
        conflicting values. ``assigned``: see ``conflict_assigns``.
        """
        replaces = insert_inspection.replaces(statement)
        upserts = insert_inspection.is_upsert(statement)
        table, actions = pending.table.table, self._cascades.actions
        constraints = actions.of_delete(table) if replaces else actions.of_update(table, assigned)
        changes_key = any(str(column.name) in assigned for column in pending.key_columns)
        rows = pending.rows
        is_found = isinstance(rows, InsertedRows) and isinstance(rows.returned, MatchedKeys)
        returns_nothing = upserts and not connection.dialect.insert_returning and not is_found
        needed = bool(replaces or changes_key or constraints or returns_nothing)
        if not needed and not (upserts and pending.stored.has_before_images):
            return
        if changes_key and not connection.dialect.insert_returning:
            pending.refuse_or_warn(self._strictness, "an upsert that changes the primary key")
        if needed and not unique_conflicts.declares_unique_values(statement, pending.table):
            what = "a REPLACE or upsert through a table object without the table's unique constraints"
            pending.refuse_or_warn(self._strictness, what)
            return
        pending.refuse_to_read_through_dml()
        try:
            exclusive = bool(replaces or changes_key or constraints)
            keys = unique_conflicts.lock_conflicting(connection, statement, pending, exclusive=exclusive)
        except unique_conflicts.UnknownValueError as unknown:
            if needed:
                what = f"a REPLACE or upsert for which the value of {unknown.column!r} is not known beforehand"
                pending.refuse_or_warn(self._strictness, what)
            return
        pending.add_side_effect(pending.stored, keys)
        pending.removes_side_effects = bool(replaces or changes_key or constraints)
        self._cascades.lock(connection, pending, constraints, keys, delete=replaces)
