"""Find the captured tables changed through foreign keys by a statement on an uncaptured table."""

from __future__ import annotations

from collections.abc import Iterable, Set

import sqlalchemy as sa
from sqlalchemy.sql.dml import Delete, Insert, Update, UpdateBase

from rowcast.producer.capture.dml.foreign_key_actions import ForeignKeyActions
from rowcast.producer.capture.dml.insert_inspection import conflict_assigns, replaces
from rowcast.producer.capture.dml.inspection import Parameters, assigned_columns

_DELETING_VERBS = frozenset(("delete", "truncate", "replace", "merge"))


def changed_children(
    actions: ForeignKeyActions, table: sa.Table | None, statement: UpdateBase, sets: Parameters
) -> set[sa.Table]:
    """Return the tables whose rows the database may change together with the rows of the statement, at any depth.

    ``table``: the metadata's table for the table of the statement, if any.
    """
    if table is None or not actions.referring_to(table):
        return set()
    deletes = isinstance(statement, Delete) or (isinstance(statement, Insert | Update) and replaces(statement))
    if deletes:
        first = actions.of_delete(table)
    else:
        first = actions.of_update(table, _assigned(statement, sets))
    return _follow(actions, first, deletes=deletes)


def children_changed_by_text(actions: ForeignKeyActions, table: sa.Table, words: Set[str]) -> set[sa.Table]:
    """Return the tables whose rows SQL text may change together with rows of ``table``, at any depth.

    ``words``: the words of the text. A column that the text names may be set.
    """
    found: set[sa.Table] = set()
    if not words.isdisjoint(_DELETING_VERBS):
        found |= _follow(actions, actions.of_delete(table), deletes=True)
    if "update" in words:
        named = {str(column.name) for column in table.columns if str(column.name).lower() in words}
        found |= _follow(actions, actions.of_update(table, named), deletes=False)
    if words >= {"truncate", "cascade"}:
        found |= emptied_by_cascade(actions, table)
    return found


def _assigned(statement: UpdateBase, sets: Parameters) -> set[str]:
    if isinstance(statement, Insert):
        return conflict_assigns(statement)
    return assigned_columns(statement, sets) if isinstance(statement, Update) else set()


def _follow(
    actions: ForeignKeyActions, constraints: Iterable[sa.ForeignKeyConstraint], *, deletes: bool
) -> set[sa.Table]:
    seen: set[tuple[sa.ForeignKeyConstraint, bool]] = set()
    steps = [(constraint, deletes) for constraint in constraints]
    while steps:
        step = steps.pop()
        if step in seen:
            continue
        seen.add(step)
        constraint, deleting = step
        child = constraint.table
        if deleting and (constraint.ondelete or "").upper() == "CASCADE":
            steps += [(c, True) for c in actions.of_delete(child)]
        else:
            steps += [(c, False) for c in actions.of_update(child, {str(c.name) for c in constraint.columns})]
    return {constraint.table for constraint, _ in seen}


def emptied_by_cascade(actions: ForeignKeyActions, table: sa.Table) -> set[sa.Table]:
    """Return the tables that TRUNCATE … CASCADE empties together with ``table``, whatever the actions say."""
    found: set[sa.Table] = set()
    steps = [table]
    while steps:
        below = {constraint.table for constraint in actions.referring_to(steps.pop())} - found
        found |= below
        steps += below
    return found
