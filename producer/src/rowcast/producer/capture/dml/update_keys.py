"""Choose how the capture finds the keys of the rows changed by an UPDATE or DELETE."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection
from sqlalchemy.sql.dml import Delete, Update, UpdateBase

from rowcast.producer.capture.dml import insert_inspection, inspection, unique_conflicts
from rowcast.producer.capture.dml.cascaded_rows import CascadedRows
from rowcast.producer.capture.dml.changed_rows import (
    NAMED,
    NamedRows,
    ReturnedRows,
    UnseenRows,
)
from rowcast.producer.capture.dml.engine_scope import SCHEMA_TRANSLATE_MAP, EngineScope
from rowcast.producer.capture.dml.inspection import KeyCondition
from rowcast.producer.capture.dml.locked_rows import ComputedRows, LockedRows, NamedLockedRows
from rowcast.producer.capture.dml.pending_statement import ChangedRows, PendingStatement
from rowcast.producer.capture.dml.returned_keys import (
    AppendedReturning,
    ExtendedOwnReturning,
    KeysStoredByCte,
    ReturnedKeys,
)
from rowcast.producer.capture.dml.row_selection import RowSelection, UnknownSyntaxError, chooses_row_by_row
from rowcast.producer.capture.dml.statement_tables import has_several_tables, is_aliased, other_tables_changed
from rowcast.producer.database.row_locks import Key
from rowcast.shared.errors import CaptureError


class _Change(NamedTuple):
    """Describe the effects of a statement on keys and on other tables.

    ``sets_key``: the statement sets key columns. ``new_keys``: the new keys, if values name the keys. ``constraints``:
    the foreign keys through which the statement changes other rows. ``locked_elsewhere``: conditions for the locked
    rows of other tables in a multi-table UPDATE.
    """

    sets_key: bool
    new_keys: tuple[Key, ...] | None
    constraints: Sequence[sa.ForeignKeyConstraint]
    locked_elsewhere: Sequence[ColumnElement[bool]] = ()

    @property
    def computes_key(self) -> bool:
        """Whether the database computes the new keys."""
        return self.sets_key and self.new_keys is None


class UpdateKeys:
    """Choose for the UPDATEs and DELETEs of an engine."""

    def __init__(self, cascades: CascadedRows, scope: EngineScope) -> None:
        self._cascades = cascades
        self._scope = scope

    def choose(
        self, connection: Connection, pending: PendingStatement, statement: Update | Delete
    ) -> list[tuple[UpdateBase, Mapping[str, Any]]] | None:
        """Set the source of the keys. Read and lock rows if necessary.

        Return pairs of the statement and a parameter set, if the sets must be executed one after the other. Return None
        if not. Refuses or warns of a statement that chooses its rows in an unknown way.
        """
        try:
            known = self._choose(connection, pending, statement)
        except UnknownSyntaxError:
            pending.refuse_or_warn(self._scope.strictness, "a statement with an unknown syntax extension")
            pending.rows = UnseenRows()
            return None
        return None if known else [(statement, parameters) for parameters in pending.sets]

    def _choose(self, connection: Connection, pending: PendingStatement, statement: Update | Delete) -> bool:
        """Choose as ``choose`` does. Return False if the parameter sets must be executed one after the other."""
        condition = inspection.key_condition(statement, pending.key_columns)
        chooses_with_many_sets = condition is None and len(pending.sets) > 1
        if chooses_with_many_sets and not chooses_row_by_row(statement, pending.key_columns, connection.dialect):
            # The rows of a parameter set may depend on the changes of the earlier sets.
            return False
        actions = self._cascades.actions
        if isinstance(statement, Delete):
            change = _Change(False, None, actions.of_delete(pending.table.table))
        else:
            assigned = set(map(pending.table.own_name, inspection.assigned_columns(statement, pending.sets)))
            if condition is None and pending.stored.stored_keys.are_rekeyed:
                # A trigger may set the key columns too.
                assigned |= {str(column.name) for column in pending.table.key_columns}
            sets_key = _has_any(pending.table.key_columns, assigned)
            new_keys = _new_keys(pending, statement, condition) if sets_key else None
            if sets_key and len(pending.sets) > 1 and (new_keys is None or _are_chained(condition, pending, new_keys)):
                return False
            constraints = actions.of_update(pending.table.table, assigned)
            deletes = sets_key and insert_inspection.replaces(statement) and actions.of_delete(pending.table.table)
            if deletes or unique_conflicts.may_replace(statement, pending.table.table, assigned):
                what = "an UPDATE OR REPLACE that may delete rows with the same unique values, or their children,"
                pending.refuse_or_warn(self._scope.strictness, what)
            change = _Change(sets_key, new_keys, constraints, self._lock_other_tables(connection, pending, statement))
            pending.removes_side_effects = bool(constraints)
        pending.rows = rows = self._choose_rows(connection, pending, statement, condition, change)
        if chooses_with_many_sets and not (isinstance(rows, LockedRows) and rows.is_restricted):
            return False
        if change.locked_elsewhere:
            assert isinstance(pending.statement, Update)
            pending.statement = pending.statement.where(*change.locked_elsewhere)
        if change.constraints:
            assert isinstance(rows, LockedRows)
            assert pending.keys is not None
            delete = isinstance(statement, Delete)
            self._cascades.lock(connection, pending, change.constraints, pending.keys, delete=delete)
            if not delete and actions.change_child_keys(change.constraints):
                rows.rekeyed_through = change.constraints
        return True

    def _choose_rows(
        self,
        connection: Connection,
        pending: PendingStatement,
        statement: Update | Delete,
        condition: KeyCondition | None,
        change: _Change,
    ) -> ChangedRows:
        # On SQLite the rowcount of a statement with a RETURNING does not show whether the named rows exist.
        is_named = condition is not None and pending.setting is None and not inspection.has_own_returning(statement)
        if condition is not None and is_named and not (change.computes_key or change.constraints):
            keys = condition.keys(pending.sets)
            if pending.stored.stored_keys.holds_keys(keys):
                pending.keys = keys
                return self._choose_named(connection, pending, statement, change)
        returned = self._choose_returned(connection, pending, statement)
        reads_before = change.sets_key or change.constraints or pending.stored.has_before_images
        verb = "DELETE" if isinstance(statement, Delete) else "UPDATE"
        may_replace = self._scope.replaced_statements.may_replace
        if returned is not None and not (reads_before or may_replace(connection, pending.stored, verb)):
            returned.prepare(pending)
            return ReturnedRows(returned)
        return self._choose_locked(connection, pending, returned, change, names_keys=condition is not None)

    def _choose_named(
        self, connection: Connection, pending: PendingStatement, statement: Update | Delete, change: _Change
    ) -> ChangedRows:
        """Choose for a statement with the keys in the parameters. Lock the rows only if the keys go away."""
        assert pending.keys is not None
        removes_keys = change.sets_key or isinstance(statement, Delete)
        if removes_keys and (len(pending.keys) > 1 or pending.stored.stored_keys.folding_columns):
            rows = NamedLockedRows(
                self._cascades, new_keys=change.new_keys, counts_other_rows=bool(change.locked_elsewhere)
            )
            rows.lock(connection, pending)
            return rows
        return NAMED if change.new_keys is None else NamedRows(change.new_keys)

    def _choose_returned(
        self, connection: Connection, pending: PendingStatement, statement: Update | Delete
    ) -> ReturnedKeys | None:
        """Return how the statement itself can return its keys after the change, or None."""
        if pending.setting is not None:
            return KeysStoredByCte(pending.setting)
        dialect, deletes = connection.dialect, isinstance(statement, Delete)
        able = dialect.delete_returning if deletes else dialect.update_returning
        several = has_several_tables(statement)
        if several:
            able = dialect.delete_returning_multifrom if deletes else dialect.update_returning_multifrom
        if not able or len(pending.sets) > 1 or (several and is_aliased(statement)):
            return None
        return ExtendedOwnReturning() if inspection.has_own_returning(statement) else AppendedReturning()

    def _choose_locked(
        self,
        connection: Connection,
        pending: PendingStatement,
        returned: ReturnedKeys | None,
        change: _Change,
        *,
        names_keys: bool,
    ) -> LockedRows:
        """Choose for a statement with rows to be read beforehand, and lock the rows."""
        rows: LockedRows
        if change.computes_key and returned is None:
            rows = ComputedRows(self._cascades, counts_other_rows=bool(change.locked_elsewhere))
        else:
            needs_returned = change.computes_key or pending.setting is not None
            rows = LockedRows(
                self._cascades,
                new_keys=change.new_keys,
                returned=returned if needs_returned else None,
                counts_other_rows=bool(change.locked_elsewhere),
                exclusive=change.sets_key or bool(change.constraints) or isinstance(pending.statement, Delete),
                names_keys=names_keys,
            )
        statement = pending.statement
        assert isinstance(statement, Update | Delete)
        if pending.setting is not None and not chooses_row_by_row(statement, pending.key_columns, connection.dialect):
            # The text of a CTE exists already. Therefore the statement cannot be restricted to the rows.
            what = "DML in a common table expression whose rows must be read before it"
            pending.refuse_or_warn(self._scope.strictness, what)
        rows.lock(connection, pending)
        return rows

    def _lock_other_tables(
        self, connection: Connection, pending: PendingStatement, statement: Update
    ) -> list[ColumnElement[bool]]:
        """Lock the rows of other tables that a MySQL multi-table UPDATE changes. Return the condition for each table.

        Raises CaptureError if the statement changes keys in other tables, or columns that foreign keys refer to.
        """
        locked = []
        for table, assigned in other_tables_changed(statement).items():
            other = self._scope.find_captured(connection, table, pending.options[SCHEMA_TRANSLATE_MAP])
            if other is None:
                continue
            columns = other.stored_keys.columns
            if self._cascades.actions.of_update(table, assigned) or _has_any(columns, assigned):
                raise CaptureError(
                    f"an UPDATE of several tables changes the key of {other.full_name}, or a column that foreign keys "
                    "refer to. Change one table at a time."
                )
            selection = RowSelection(statement, columns, connection.dialect, exclusive=False)
            keys = selection.read_keys(connection, pending.sets, pending.options)
            pending.add_side_effect(other, keys)
            locked.append(selection.names(keys, in_one_set=len(pending.sets) == 1))
        return locked


def _new_keys(pending: PendingStatement, statement: Update, condition: KeyCondition | None) -> tuple[Key, ...] | None:
    """Return the new key for each parameter set, or None if values do not name old and new keys."""
    if condition is None:
        return None
    return inspection.new_keys(statement, pending.key_columns, pending.sets, condition.keys(pending.sets))


def _are_chained(condition: KeyCondition | None, pending: PendingStatement, new_keys: Sequence[Key]) -> bool:
    """Return whether a parameter set may find a row by the new key that another set has given the row."""
    assert condition is not None
    old_keys = condition.keys(pending.sets)
    try:
        named = set(old_keys)
        return any(new != old and new in named for old, new in zip(old_keys, new_keys, strict=True))
    except TypeError:
        # Keys that are not hashable are too rare to compare otherwise.
        return True


def _has_any(columns: Sequence[sa.Column[Any]], names: Collection[str]) -> bool:
    return any(str(column.name) in names for column in columns)
