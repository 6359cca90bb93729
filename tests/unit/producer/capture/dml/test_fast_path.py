"""Fast and full path of the tracker note equal keys."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError

from rowcast.producer.capture.dml.engine_scope import SCHEMA_TRANSLATE_MAP
from rowcast.producer.capture.dml.fast_path import FastPath
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from support.captured_tables import CapturedShop, noted

KEYS = st.integers(1, 5)
NAMES = st.sampled_from(["a", "b", None])
STEPS = st.one_of(
    st.tuples(st.just("insert"), st.lists(KEYS, min_size=1, max_size=3, unique=True), NAMES),
    st.tuples(st.just("draw"), st.just([0]), NAMES),
    st.tuples(st.just("update"), st.lists(KEYS, min_size=1, max_size=3), NAMES),
    st.tuples(st.just("rekey"), st.lists(KEYS, min_size=1, max_size=1), st.integers(1, 9)),
    st.tuples(st.just("delete"), st.lists(KEYS, min_size=1, max_size=3), NAMES),
    st.tuples(st.just("upsert"), st.lists(KEYS, min_size=1, max_size=3, unique=True), NAMES),
    st.tuples(st.just("upsert_values"), st.lists(KEYS, min_size=1, max_size=1), NAMES),
    st.tuples(st.just("upsert_key"), st.lists(KEYS, min_size=1, max_size=1), NAMES),
)
SCRIPTS = st.lists(st.tuples(st.sampled_from(["item", "audited", "owner"]), STEPS), min_size=1, max_size=12)


class NoFastPath(FastPath):
    """Refuse every statement, so that the tracker takes the full path."""

    def expect(self, statement: Any, sets: Any, notes: Any) -> None:
        return None

    def recognize(self, pending: Any, dialect: Any) -> bool:
        return False


class Player:
    """Play scripts on a shop with listeners.

    Execute the same statement objects repeatedly, as the ORM does. Each execution has a new upsert, as in applications.
    """

    def __init__(self, *, fast: bool) -> None:
        self.shop = CapturedShop()
        tracker: Any = self.shop.listeners._statements._tracker
        if not fast:
            tracker.fast_path = NoFastPath(tracker.fast_path._cascades, tracker.fast_path._reported_rows)
        self.shop.listeners.install()
        key: Any = sa.bindparam("key")
        self.statements: dict[tuple[str, str], Any] = {}
        for table in (self.shop.item, self.shop.audited, self.shop.owner):
            name = str(table.name)
            self.statements[name, "insert"] = sa.insert(table)
            self.statements[name, "draw"] = sa.insert(table)
            self.statements[name, "update"] = sa.update(table).where(table.c.id == key)
            self.statements[name, "rekey"] = self.statements[name, "update"]
            self.statements[name, "delete"] = sa.delete(table).where(table.c.id == key)

    def play(self, script: list[Any]) -> list[Any]:
        """Return the notes of the script's transaction."""
        with self.shop.connect() as connection:
            for name, (kind, keys, value) in script:
                named = {} if name == "owner" else {"name": value}
                if kind == "insert":
                    sets = [{"id": key, **named} for key in keys]
                elif kind == "draw":
                    sets = [named]
                elif kind == "rekey":
                    sets = [{"key": key, "id": value} for key in keys]
                elif name == "owner" and (kind == "update" or kind.startswith("upsert")):
                    continue
                else:
                    sets = [{"key": key, **(named if kind == "update" else {})} for key in keys]
                # A failed statement does not end SQLite's transaction.
                with suppress(IntegrityError):
                    if kind.startswith("upsert"):
                        self._upsert(connection, self.shop.metadata.tables[name], kind, keys, value)
                    else:
                        connection.execute(self.statements[name, kind], sets if len(sets) > 1 else sets[0])
            notes = self.shop.listeners._transactions.get(connection)
            found = [] if notes is None else noted(notes)
            connection.rollback()
            return found

    def _upsert(self, connection: sa.Connection, table: sa.Table, kind: str, keys: list[int], value: Any) -> None:
        insert = sqlite.insert(table)
        assigned = {"id": insert.excluded.id + 10} if kind == "upsert_key" else {"name": insert.excluded.name}
        rows = [{"id": key, "name": value} for key in keys]
        upsert = insert.on_conflict_do_update(index_elements=["id"], set_=assigned)
        if kind == "upsert":
            connection.execute(upsert, rows if len(rows) > 1 else rows[0])
        else:
            connection.execute(upsert.values(rows[0]))

    def count_plans(self) -> int:
        """Return how many statements the fast path takes."""
        tracker: Any = self.shop.listeners._statements._tracker
        return sum(plan is not None for _, plan in tracker.fast_path._plans.values())

    def count_plans_of_upserts(self) -> int:
        """Return how many shapes of upserts into ``item`` the fast path takes."""
        tracker: Any = self.shop.listeners._statements._tracker
        plans = tracker.fast_path._upserts._plans.values()
        return sum(plan is not None and plan.table.table is self.shop.item for plan in plans)


FAST, FULL = Player(fast=True), Player(fast=False)


@given(SCRIPTS)
def test_fast_and_full_path_note_the_same(script: list[Any]) -> None:
    assert FAST.play(script) == FULL.play(script)
    assert not FULL.count_plans()


def test_the_fast_path_knows_the_statements_of_the_script() -> None:
    FAST.play([("item", (kind, [1], value)) for kind, value in (("insert", "a"), ("update", "b"), ("delete", "c"))])
    assert FAST.count_plans() >= 3
    FAST.play([("item", ("upsert_values", [1], "a"))])
    assert FAST.count_plans_of_upserts() == 1


@pytest.mark.parametrize(
    "insert",
    [
        sa.insert,
        lambda table: sqlite.insert(table).on_conflict_do_update(index_elements=["id"], set_={"name": "b"}),
    ],
    ids=["insert", "upsert"],
)
def test_a_plan_of_a_tenants_table_is_not_used_for_the_table_itself(insert: Callable[[sa.Table], Any]) -> None:
    """A trigger may change the keys of the table, and not those of the tenant's table."""
    shop, tenant = CapturedShop(), CapturedShop()
    fast_path: FastPath = shop.listeners._statements._tracker.fast_path
    statement, sets = insert(shop.item), [{"id": 1, "name": "a"}]
    with shop.connect() as connection, tenant.connect() as of_tenant:
        table, stored = shop.captured(connection, shop.item), tenant.captured(of_tenant, tenant.item)
        table.stored_keys.are_rewritten = True
        pending = PendingStatement(statement, table, stored, sets, {SCHEMA_TRANSLATE_MAP: {None: "tenant"}})
        fast_path.recognize(pending, connection.dialect)
        assert fast_path.expect(statement, sets, TransactionNotes()) is None
