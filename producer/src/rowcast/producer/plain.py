"""Statements that need no help to be captured: mostly the unit of work's, which executes them again and again.

An INSERT whose keys SQLAlchemy reports or the parameters name, an UPDATE or DELETE whose parameters name its rows, and
that change nothing else. What makes a statement one is looked at once, and only its parameters each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import ref

from sqlalchemy.engine import CursorResult, Dialect
from sqlalchemy.sql.dml import Delete, Insert, Update, UpdateBase

from rowcast.producer import inserts, statements
from rowcast.producer.announcements import Announcer
from rowcast.producer.cascades import Cascades
from rowcast.producer.followers import Followers
from rowcast.producer.likened import likened_columns
from rowcast.producer.pending import Pending
from rowcast.producer.statements import KeyCondition
from rowcast.producer.touched import Touch, Touched
from rowcast.shared.types import MYSQL_FAMILY


@dataclass(frozen=True, slots=True)
class _Plan:
    """``cascades``: the foreign keys for which it was made. ``condition``: None for an INSERT."""

    cascades: Cascades
    several: bool
    """Whether it stays plain with more than one parameter set."""
    condition: KeyCondition | None = None
    excluded: frozenset[str] = frozenset()
    """Parameters with which an UPDATE is not plain: it would change the key, or rows of other tables."""


class PlainStatements:
    """One engine's."""

    def __init__(self, followers: Followers, announcer: Announcer) -> None:
        self._followers = followers
        self._announcer = announcer
        # By identity: what the ORM makes of one statement for the several tables of a class hashes alike.
        self._plans: dict[int, tuple[ref[UpdateBase], _Plan | None]] = {}

    def recognise(self, pending: Pending, dialect: Dialect) -> bool:
        """Whether the statement is plain; then ``pending`` has its keys, as far as they can be known before it runs."""
        plan = self._plan(pending, dialect)
        sets = pending.sets
        if plan is None or (len(sets) > 1 and not plan.several):
            return False
        if plan.condition is not None:
            if pending.stored.before or not plan.excluded.isdisjoint(sets[0]):
                return False
            pending.keys = plan.condition.keys(sets)
            return True
        statement: Any = pending.statement
        if statements.has_return_defaults(statement):
            return True
        columns = pending.key_columns
        if len(sets) == 1 and not statement._inline and columns[0].table.implicit_returning:
            return True
        pending.keys = inserts.given_keys(statement, columns, sets)
        return pending.keys is not None

    def note(self, pending: Pending, result: CursorResult[Any], notes: Touched) -> None:
        """Notes the keys of a plain statement that was executed."""
        keys, statement = pending.keys, pending.statement
        if isinstance(statement, Insert):
            if keys is None:
                keys = inserts.inserted_keys(statement, result, pending.key_columns, pending.sets)
            if keys is None:
                pending.unseen(self._announcer, "an INSERT that does not return the new rows' keys")
            else:
                notes.note(pending.stored, Touch.INSERT, keys, locked=True)
            return
        assert keys is not None
        touch = Touch.DELETE if isinstance(statement, Delete) else Touch.UPDATE
        # A key that the statement did not find was not changed, and is not locked.
        notes.note(pending.stored, touch, keys, locked=result.rowcount == (1 if len(keys) == 1 else len(set(keys))))

    def _plan(self, pending: Pending, dialect: Dialect) -> _Plan | None:
        statement, cascades = pending.statement, self._followers.cascades
        identity = id(statement)
        known = self._plans.get(identity)
        if known is not None and known[0]() is statement and (known[1] is None or known[1].cascades is cascades):
            return known[1]
        plan = self._make(pending, cascades, dialect)
        plans = self._plans
        plans[identity] = ref(statement, lambda _: plans.pop(identity, None)), plan
        return plan

    def _make(self, pending: Pending, cascades: Cascades, dialect: Dialect) -> _Plan | None:
        statement, columns = pending.statement, pending.key_columns
        if statements.has_own_returning(statement):
            return None
        if isinstance(statement, Insert):
            gives_rows = statement._multi_values or statement.select is not None
            draws = dialect.name in MYSQL_FAMILY and columns[0].table._autoincrement_column is not None
            if gives_rows or draws or inserts.is_upsert(statement):
                return None
            return _Plan(cascades, several=True)
        if not isinstance(statement, Update | Delete):
            return None
        condition = statements.key_condition(statement, columns)
        if condition is None:
            return None
        table = pending.table.table
        if isinstance(statement, Delete):
            if cascades.of_delete(table) or likened_columns(pending.stored, dialect):
                return None
            return _Plan(cascades, several=dialect.name == "sqlite", condition=condition)
        told = {c for c in table.columns if c.primary_key or cascades.of_update(table, [str(c.name)])}
        assigned = {name for name, _ in statements.assignments(statement)}
        if not assigned.isdisjoint(str(c.name) for c in told) or statements.other_tables_changed(statement):
            return None
        excluded = frozenset(str(c.key) for c in told)
        return _Plan(cascades, several=True, condition=condition, excluded=excluded)
