"""Capture INSERTs whose ``values()`` name parameters of the application, otherwise than by the columns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from fixtures.databases import ENGINES, NewDatabase
from support.shop import Models, Shop, shop_engine


@pytest.fixture(params=ENGINES)
def shop(request: pytest.FixtureRequest, new_database: NewDatabase) -> Any:
    metadata = sa.MetaData()
    sa.Table("items", metadata, sa.Column("code", sa.String(9), primary_key=True), sa.Column("n", sa.Integer))
    sa.Table(
        "lines",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("code", sa.String(9), unique=True),
        sa.Column("n", sa.Integer),
    )
    shop = Shop(
        shop_engine(new_database(request.param)), cast(Models, SimpleNamespace(metadata=metadata)), strict="raise"
    )
    yield shop
    shop.engine.dispose()


def execute(shop: Shop, statement: Any, *sets: dict[str, Any]) -> None:
    """Execute the statement in a transaction, and compare the outbox with the rows."""
    with shop.engine.begin() as connection:
        connection.execute(statement, sets if len(sets) > 1 else sets[0])
    shop.take()
    assert shop.mirror == shop.rows()


def test_keys_are_found_by_the_parameters_that_values_name(shop: Shop) -> None:
    items, lines = (shop.models.metadata.tables[name] for name in ("items", "lines"))
    insert = sa.insert(items).values(code=sa.bindparam("new_code"), n=sa.bindparam("new_n"))
    execute(shop, insert, {"new_code": "a", "new_n": 1})
    execute(shop, insert, {"new_code": "b", "new_n": 1}, {"new_code": "c", "new_n": 2})
    execute(shop, sa.insert(items).values(code=sa.bindparam("new_code", "d")), {})
    by_id = sa.insert(lines).values(id=sa.bindparam("new_id"))
    execute(shop, by_id, {"new_id": 7})
    execute(shop, by_id, {"new_id": 8}, {"new_id": 9})
    assert len(shop.mirror) == 7


def test_a_key_that_python_computes_when_the_insert_runs(shop: Shop) -> None:
    lines = shop.models.metadata.tables["lines"]
    execute(shop, sa.insert(lines).values(id=sa.bindparam("new_id", callable_=lambda: 70)), {})
    assert [row["id"] for row in shop.mirror.values()] == [70]


def test_conflicting_rows_are_found_by_the_parameters_that_values_name(shop: Shop) -> None:
    """The statements change the keys of conflicting rows, or delete these rows."""
    lines, kind = shop.models.metadata.tables["lines"], shop.engine.dialect.name
    if kind == "mysql" and not getattr(shop.engine.dialect, "is_mariadb", False):
        pytest.skip("an upsert that changes keys is refused on MySQL")
    execute(shop, sa.insert(lines), *({"id": i, "code": f"c{i}", "n": i} for i in range(1, 5)))
    values: dict[str, Any] = {"code": sa.bindparam("new_code"), "n": sa.bindparam("new_n")}
    upsert: Any
    if kind == "mysql":
        upsert = mysql.insert(lines).values(values).on_duplicate_key_update(id=100)
    else:
        dialect = postgresql if kind == "postgresql" else sqlite
        upsert = dialect.insert(lines).values(values).on_conflict_do_update(index_elements=["code"], set_={"id": 100})
    execute(shop, upsert, {"new_code": "c1", "new_n": 10})
    if kind != "postgresql":
        replace = sa.insert(lines).values(values).prefix_with("OR REPLACE", dialect="sqlite")
        if kind == "mysql":
            replace = mysql.insert(lines).values(values).on_duplicate_key_update(id=101)
        execute(shop, replace, {"new_code": "c2", "new_n": 20})
    left = 3 if kind == "postgresql" else 2
    assert sum(row["id"] <= 4 for row in shop.mirror.values()) == left
