"""Statements that need no help to be captured: mostly the unit of work's, which executes them again and again.

An INSERT whose keys SQLAlchemy reports or the parameters name, an UPDATE or DELETE whose parameters name its rows, and
that change nothing else. What makes a statement one is looked at once, and only its parameters each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import ref

from sqlalchemy.engine import Dialect
from sqlalchemy.sql.dml import Delete, Insert, Update, UpdateBase

from rowcast.producer import inserts, statements
from rowcast.producer.cascades import Cascades
from rowcast.producer.followers import Followers
from rowcast.producer.likened import likened_columns
from rowcast.producer.pending import Pending
from rowcast.producer.statements import Key, KeyCondition, Parameters
from rowcast.producer.tables import CapturedTable
from rowcast.producer.touched import Touch
from rowcast.shared.types import MYSQL_FAMILY


@dataclass(frozen=True, slots=True)
class Plan:
    """``table``: the captured table; ``cascades``: the foreign keys for which it was made. ``condition``: None for an
    INSERT."""

    table: CapturedTable
    cascades: Cascades
    several: bool
    """Whether it stays plain with more than one parameter set."""
    touch: Touch
    condition: KeyCondition | None = None
    names: tuple[str, ...] = ()
    """Of an INSERT: the parameters with its key."""
    excluded: frozenset[str] = frozenset()
    """Parameters with which an UPDATE is not plain: it would change the key, or rows of other tables."""

    def keys(self, sets: Parameters) -> tuple[Key, ...] | None:
        """The keys that the parameters name; None if with these parameters it is not plain, or draws them."""
        if self.condition is None:
            return inserts.named_keys(self.names, sets)
        if len(sets) > 1 and not self.several:
            return None
        if self.table.before or not self.excluded.isdisjoint(sets[0]):
            return None
        return self.condition.keys(sets)


class PlainStatements:
    """One engine's."""

    def __init__(self, followers: Followers) -> None:
        self._followers = followers
        # By identity: what the ORM makes of one statement for the several tables of a class hashes alike.
        self._plans: dict[int, tuple[ref[UpdateBase], Plan | None]] = {}

    def known(self, statement: Any) -> Plan | None:
        """The plan of a statement that was met before and is plain; None of any other."""
        found = self._plans.get(id(statement))
        if found is None or found[0]() is not statement:
            return None
        plan = found[1]
        return plan if plan is not None and plan.cascades is self._followers.cascades else None

    def recognise(self, pending: Pending, dialect: Dialect) -> bool:
        """Whether the statement is plain; then ``pending`` has its keys, as far as they can be known before it runs."""
        plan, statement = self._plan(pending, dialect), pending.statement
        if plan is None:
            return False
        pending.keys = plan.keys(pending.sets)
        return pending.keys is not None or (
            isinstance(statement, Insert) and inserts.reports_keys(statement, pending.sets)
        )

    def _plan(self, pending: Pending, dialect: Dialect) -> Plan | None:
        statement, cascades = pending.statement, self._followers.cascades
        identity = id(statement)
        known = self._plans.get(identity)
        if known is not None and known[0]() is statement and (known[1] is None or known[1].cascades is cascades):
            return known[1]
        plan = self._make(pending, cascades, dialect)
        plans = self._plans
        plans[identity] = ref(statement, lambda _: plans.pop(identity, None)), plan
        return plan

    def _make(self, pending: Pending, cascades: Cascades, dialect: Dialect) -> Plan | None:
        statement, columns, stored = pending.statement, pending.key_columns, pending.stored
        if statements.has_own_returning(statement):
            return None
        if isinstance(statement, Insert):
            gives_rows = statement._multi_values or statement.select is not None
            draws = dialect.name in MYSQL_FAMILY and columns[0].table._autoincrement_column is not None
            if gives_rows or draws or inserts.is_upsert(statement):
                return None
            return Plan(pending.table, cascades, True, Touch.INSERT, names=tuple(str(c.key) for c in columns))
        if not isinstance(statement, Update | Delete):
            return None
        condition = statements.key_condition(statement, columns)
        if condition is None:
            return None
        table = pending.table.table
        if isinstance(statement, Delete):
            if cascades.of_delete(table) or likened_columns(stored, dialect):
                return None
            return Plan(pending.table, cascades, dialect.name == "sqlite", Touch.DELETE, condition)
        told = {c for c in table.columns if c.primary_key or cascades.of_update(table, [str(c.name)])}
        assigned = {name for name, _ in statements.assignments(statement)}
        if not assigned.isdisjoint(str(c.name) for c in told) or statements.other_tables_changed(statement):
            return None
        excluded = frozenset(str(c.key) for c in told)
        return Plan(pending.table, cascades, True, Touch.UPDATE, condition, excluded=excluded)
