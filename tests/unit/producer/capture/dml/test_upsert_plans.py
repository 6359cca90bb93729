"""Upserts whose values name their rows are recognized by their shape."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from rowcast.producer.capture.dml.cascaded_rows import CascadedRows
from rowcast.producer.capture.dml.upsert_plans import UpsertPlans
from support.captured_tables import CapturedShop


def upsert(table: sa.Table, elements: Any = ("id",), **options: Any) -> sqlite.Insert:
    return sqlite.insert(table).on_conflict_do_update(
        **{"index_elements": list(elements), "set_": {"name": "b"}} | options
    )


@pytest.fixture
def plans(shop: CapturedShop) -> UpsertPlans:
    return UpsertPlans(CascadedRows(shop.scope))


@pytest.mark.parametrize("sets", [[{"id": 2, "name": "a"}], [{"id": 2, "name": "a"}, {"id": 3, "name": "a"}]])
def test_parameters_name_the_rows(
    shop: CapturedShop, connection: Connection, plans: UpsertPlans, sets: list[dict[str, Any]]
) -> None:
    statement = upsert(shop.item)
    plan = plans.recognize(shop.pending(connection, statement, *sets), statement)
    assert plan is not None
    assert plan.keys(statement, sets) == tuple((row["id"],) for row in sets)


def test_the_next_upsert_of_the_shape_is_known(shop: CapturedShop, connection: Connection, plans: UpsertPlans) -> None:
    first = upsert(shop.item).values(id=2, name="a")
    assert plans.find(first) is None
    plan = plans.recognize(shop.pending(connection, first), first)
    following = upsert(shop.item).values(id=3)
    assert plan is not None
    assert plans.find(following) is plan
    assert plan.keys(following, [{}]) == ((3,),)
    # A parameter takes precedence, as in SQLAlchemy.
    assert plan.keys(following, [{"id": 4}]) == ((4,),)


def test_a_plan_ends_when_the_metadata_grows(shop: CapturedShop, connection: Connection, plans: UpsertPlans) -> None:
    statement = upsert(shop.item)
    plans.recognize(shop.pending(connection, statement, {"id": 2}), statement)
    sa.Table("part", shop.metadata, sa.Column("name", sa.ForeignKey("item.name", onupdate="CASCADE"), primary_key=True))
    assert plans.find(statement) is None
    assert plans.recognize(shop.pending(connection, statement, {"id": 2}), statement) is None


def test_values_without_a_known_key_take_the_full_path(
    shop: CapturedShop, connection: Connection, plans: UpsertPlans
) -> None:
    known = upsert(shop.item)
    plan = plans.recognize(shop.pending(connection, known, {"id": 2}), known)
    assert plan is not None
    newest = sa.select(sa.func.max(shop.item.c.id)).scalar_subquery()
    for statement in (
        known.values(name="a"),
        known.values(id=None),
        known.values(id=newest),
        known.values(id="2"),
        known.values([{"id": 2}, {"id": 3}]),
        known.from_select(["id"], sa.select(shop.audited.c.id)),
    ):
        assert plans.find(statement) is plan
        assert plan.keys(statement, [{}]) is None


@pytest.mark.parametrize(
    "case", ["other index", "new key", "condition", "index condition", "nothing", "prefix", "returning", "before image"]
)
def test_another_shape_is_never_taken_for_the_known_one(
    shop: CapturedShop, connection: Connection, plans: UpsertPlans, case: str
) -> None:
    item = shop.item
    known = upsert(item)
    assert plans.recognize(shop.pending(connection, known, {"id": 2}), known) is not None
    statement = {
        "other index": upsert(item, ["name"]),
        "new key": upsert(item, set_={"id": 9}),
        "condition": upsert(item, where=item.c.name != "done"),
        "index condition": upsert(item, index_where=item.c.name != "done"),
        "nothing": sqlite.insert(item).on_conflict_do_nothing(index_elements=["id"]),
        "prefix": known.prefix_with("OR IGNORE"),
        "returning": known.returning(item.c.id),
        "before image": upsert(shop.audited),
    }[case]
    assert plans.find(statement) is None
    assert plans.recognize(shop.pending(connection, statement, {"id": 2}), statement) is None
    assert plans.find(statement) is None
