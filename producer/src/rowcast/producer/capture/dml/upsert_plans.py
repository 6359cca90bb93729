"""Recognize upserts whose values name their rows: ON CONFLICT with the primary key.

An application makes a new statement for each row, so a plan is found by the shape of the statement: the table and the
columns in ON CONFLICT and SET. Each execution inspects only the values of the key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import Insert

from rowcast.producer.capture.dml import insert_inspection, inspection
from rowcast.producer.capture.dml.cascaded_rows import CascadedRows
from rowcast.producer.capture.dml.foreign_key_actions import ForeignKeyActions
from rowcast.producer.capture.dml.inspection import Parameters
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.dml.statement_tables import table_of
from rowcast.producer.database.row_locks import Key
from rowcast.producer.tables.captured import CapturedTable

_MAX_PLANS = 1_000
"""The number of shapes whose plans an engine keeps."""

_CONDITIONS = ("constraint_target", "inferred_target_whereclause", "update_whereclause")
"""The parts of ON CONFLICT with which a conflict may be with the row of another key, or may change nothing."""

Shape = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class UpsertPlan:
    """Hold the knowledge of the upserts of a shape. ``actions``: the plan is valid for these foreign key actions."""

    table: CapturedTable
    actions: ForeignKeyActions
    key_columns: tuple[sa.Column[Any], ...]
    """The key columns of the statement's own table object."""

    def keys(self, statement: Insert, sets: Parameters) -> tuple[Key, ...] | None:
        """Return the keys in the statement and its parameters, or None if the statement must take the full path."""
        keys = insert_inspection.given_keys(statement, self.key_columns, sets)
        return keys if keys is not None and self.table.stored_keys.holds_keys(keys) else None


class UpsertPlans:
    """Keep the plans of an engine's upserts, by shape."""

    def __init__(self, cascades: CascadedRows) -> None:
        self._cascades = cascades
        self._plans: dict[Shape, UpsertPlan | None] = {}

    def find(self, statement: Insert) -> UpsertPlan | None:
        """Return the plan of an upsert, or None if its shape was not recognized before."""
        shape = _shape(statement)
        plan = None if shape is None else self._plans.get(shape)
        return plan if plan is not None and plan.actions is self._cascades.actions else None

    def recognize(self, pending: PendingStatement, statement: Insert) -> UpsertPlan | None:
        """Return the plan of an upsert. Make the plan at the first upsert of the shape."""
        shape = _shape(statement)
        if shape is None:
            return None
        plan, actions = self._plans.get(shape), self._cascades.actions
        if shape not in self._plans or (plan is not None and plan.actions is not actions):
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            names_rows = _names_rows(statement, pending, actions)
            plan = UpsertPlan(pending.table, actions, pending.key_columns) if names_rows else None
            self._plans[shape] = plan
        return plan


def _shape(statement: Insert) -> Shape | None:
    """Return the shape of an upsert, or None if an upsert of the shape may change other rows than it names."""
    clause: Any = statement._post_values_clause
    # Only PostgreSQL and SQLite name the unique values that conflict. SQLAlchemy 2.0 has a list of pairs.
    assigned = getattr(clause, "update_values_to_set", None)
    if not assigned or statement._prefixes or inspection.has_own_returning(statement):
        return None
    for condition in _CONDITIONS:
        if getattr(clause, condition, None) is not None:
            return None
    return table_of(statement), tuple(clause.inferred_target_elements or ()), tuple(dict(assigned))


def _names_rows(statement: Insert, pending: PendingStatement, actions: ForeignKeyActions) -> bool:
    """Return whether the upsert inserts or updates exactly the rows whose keys it is given, and no other rows.

    ON CONFLICT with the primary key does: a conflict with another unique value is an error of the statement.
    """
    stored = pending.table.stored_keys
    if not stored.may_be_sent or stored.are_rekeyed or stored.folding_columns or pending.table.has_before_images:
        return False
    clause: Any = statement._post_values_clause
    named = {str(getattr(element, "name", element)) for element in clause.inferred_target_elements or ()}
    keys = {str(column.name) for column in pending.key_columns}
    assigned = insert_inspection.conflict_assigns(statement)
    changes_key = not keys.isdisjoint(assigned)
    return named == keys and not changes_key and not actions.of_update(pending.table.table, assigned)
