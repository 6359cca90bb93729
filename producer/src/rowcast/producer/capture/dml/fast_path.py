"""Recognize the statements for the fast path: mostly statements that the unit of work executes again and again.

The fast path takes an INSERT if SQLAlchemy reports the keys or the parameters name the keys. The fast path takes an
UPDATE or DELETE if the parameters name the keys and the statement changes nothing else. A statement is inspected once,
and each execution inspects only the parameters. ``upsert_plans`` recognizes upserts.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import ref

from sqlalchemy.engine import Dialect
from sqlalchemy.sql.dml import Delete, Insert, Update, UpdateBase

from rowcast.producer.capture.dml import insert_inspection, inspection
from rowcast.producer.capture.dml.cascaded_rows import CascadedRows
from rowcast.producer.capture.dml.changed_rows import NAMED, InsertedRows
from rowcast.producer.capture.dml.foreign_key_actions import ForeignKeyActions
from rowcast.producer.capture.dml.inspection import KeyCondition, Parameters
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.dml.statement_tables import other_tables_changed, table_of
from rowcast.producer.capture.dml.upsert_plans import UpsertPlans
from rowcast.producer.capture.notes.transaction_notes import Expected, Touch, TransactionNotes
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.row_locks import Key
from rowcast.producer.tables.captured import CapturedTable


@dataclass(frozen=True, slots=True)
class StatementPlan:
    """Hold the fast path's knowledge of a statement. ``actions``: the plan is valid for these foreign key actions.

    ``condition``: None for an INSERT.
    """

    table: CapturedTable
    actions: ForeignKeyActions
    allows_many_sets: bool
    """Whether the fast path also takes more than one parameter set."""
    touch: Touch
    condition: KeyCondition | None = None
    key_names: tuple[str, ...] = ()
    """The parameters that hold the key of an INSERT."""
    excluded: frozenset[str] = frozenset()
    """Parameters that rule the fast path out, because with them an UPDATE changes the key or rows of other tables."""

    def keys(self, sets: Parameters) -> tuple[Key, ...] | None:
        """Return the keys in the parameters, or None if the parameters rule the fast path out.

        Return None also for an INSERT with drawn keys.
        """
        stored, condition = self.table.stored_keys, self.condition
        if condition is None:
            if len(sets) > 1:
                return insert_inspection.sent_keys(self.key_names, sets, stored)
            key = tuple(map(sets[0].get, self.key_names))
            return (key,) if stored.holds(key) else None
        if self.table.has_before_images or not self.excluded.isdisjoint(sets[0]):
            return None
        if len(sets) == 1:
            key = condition.key(sets[0])
            return (key,) if stored.holds(key) else None
        keys = condition.keys(sets) if self.allows_many_sets else None
        return keys if keys is not None and stored.holds_keys(keys) else None


class FastPath:
    """Recognize an engine's statements for the fast path, and keep a plan of each statement.

    ``reported_rows``: the way in which the keys of an INSERT become known.
    """

    def __init__(self, cascades: CascadedRows, reported_rows: InsertedRows) -> None:
        self._cascades = cascades
        self._reported_rows = reported_rows
        self._upserts = UpsertPlans(cascades)
        # The dictionary is keyed by identity, because the statements that the ORM makes for the several tables of a
        # class have the same hash.
        self._plans: dict[int, tuple[ref[UpdateBase], StatementPlan | None]] = {}

    def expect(self, statement: UpdateBase, sets: Parameters, notes: TransactionNotes) -> CapturedTable | None:
        """Take the fast path for a known statement with the keys in the parameters. Return the table.

        Return None if the statement must take the full path.
        """
        found = self._plans.get(id(statement))
        if found is None or found[0]() is not statement:
            if not isinstance(statement, Insert) or (upsert := self._upserts.find(statement)) is None:
                return None
            table, touch, keys = upsert.table, Touch.UPDATE, upsert.keys(statement, sets)
        else:
            plan = found[1]
            if plan is None or plan.actions is not self._cascades.actions:
                return None
            table, touch, keys = plan.table, plan.touch, plan.keys(sets)
        # An earlier expected statement has failed, or is being executed around the present statement.
        if keys is None or notes.expected is not None:
            return None
        notes.expected = Expected(statement, table, touch, keys)
        return table

    def recognize(self, pending: PendingStatement, dialect: Dialect) -> bool:
        """Return whether the fast path can capture the statement, and set the keys that the parameters name."""
        statement = pending.statement
        if isinstance(statement, Insert) and insert_inspection.is_upsert(statement):
            return self._recognize_upsert(pending, statement)
        plan = self._plan(pending, dialect)
        if plan is None or not _have_equal_keys(plan.table, pending.stored):
            return False
        pending.keys = plan.keys(pending.sets)
        if isinstance(statement, Insert):
            pending.rows = self._reported_rows
            return pending.keys is not None or insert_inspection.reports_stored_keys(statement, pending, dialect)
        pending.rows = NAMED
        return pending.keys is not None

    def _recognize_upsert(self, pending: PendingStatement, statement: Insert) -> bool:
        plan = self._upserts.recognize(pending, statement)
        if plan is None or not _have_equal_keys(plan.table, pending.stored):
            return False
        pending.keys, pending.rows = plan.keys(statement, pending.sets), NAMED
        return pending.keys is not None

    def _plan(self, pending: PendingStatement, dialect: Dialect) -> StatementPlan | None:
        statement, actions = pending.statement, self._cascades.actions
        identity = id(statement)
        known = self._plans.get(identity)
        if known is not None and known[0]() is statement and (known[1] is None or known[1].actions is actions):
            return known[1]
        plan = self._make_plan(pending, actions, dialect)
        plans = self._plans
        plans[identity] = ref(statement, lambda _: plans.pop(identity, None)), plan
        return plan

    def _make_plan(
        self, pending: PendingStatement, actions: ForeignKeyActions, dialect: Dialect
    ) -> StatementPlan | None:
        statement = pending.statement
        if inspection.has_own_returning(statement):
            return None
        if isinstance(statement, Insert):
            return _plan_insert(statement, pending, actions, dialect)
        if not isinstance(statement, Update | Delete):
            return None
        condition = inspection.key_condition(statement, pending.key_columns)
        if condition is None or not pending.table.stored_keys.are_exact:
            return None
        if isinstance(statement, Delete):
            return _plan_delete(pending, condition, actions)
        return _plan_update(statement, pending, condition, actions)


def _have_equal_keys(one: CapturedTable, other: CapturedTable) -> bool:
    """Return whether a plan for a table is right for the table in its schema after ``schema_translate_map``.

    A plan holds what is known of the table without the map, because later statements may come without the map.
    """
    own, its = one.stored_keys, other.stored_keys
    if own is its:
        return True
    return (
        own.may_be_sent == its.may_be_sent
        and own.are_rekeyed == its.are_rekeyed
        and bool(own.folding_columns) == bool(its.folding_columns)
    )


def _plan_insert(
    statement: Insert, pending: PendingStatement, actions: ForeignKeyActions, dialect: Dialect
) -> StatementPlan | None:
    columns = pending.key_columns
    gives_rows = statement._multi_values or statement.select is not None or not pending.table.stored_keys.may_be_sent
    draws = insert_inspection.drawn_column(pending) is not None
    may_draw = draws and capture_dialect(dialect).draws_key_for_zero
    if gives_rows or may_draw:
        return None
    key_names = tuple(str(column.key) for column in columns)
    return StatementPlan(pending.table, actions, True, Touch.INSERT, key_names=key_names)


def _plan_delete(
    pending: PendingStatement, condition: KeyCondition, actions: ForeignKeyActions
) -> StatementPlan | None:
    if actions.of_delete(pending.table.table) or pending.table.stored_keys.folding_columns:
        return None
    # Of several keys the capture must know which exist, because a missing key must not give a delete event.
    return StatementPlan(pending.table, actions, False, Touch.DELETE, condition)


def _plan_update(
    statement: Update, pending: PendingStatement, condition: KeyCondition, actions: ForeignKeyActions
) -> StatementPlan | None:
    table = pending.table.table
    # An UPDATE of these columns changes the key, or rows of other tables.
    excluded = {
        str(column.name)
        for column in table.columns
        if column.primary_key or actions.of_update(table, [str(column.name)])
    }
    assigned = {pending.table.own_name(name) for name, _ in inspection.assignments(statement)}
    if not assigned.isdisjoint(excluded) or other_tables_changed(statement) or statement._prefixes:
        return None
    if any(inspection.changes_by_itself(column) for column in table.columns if str(column.name) in excluded):
        return None
    own_columns = table_of(statement).columns
    excluded_keys = frozenset(str(c.key) for c in own_columns if pending.table.own_name(str(c.name)) in excluded)
    touch = Touch.UPDATE_EQUAL if pending.table.stored_keys.folding_columns else Touch.UPDATE
    return StatementPlan(pending.table, actions, True, touch, condition, excluded=excluded_keys)
