"""Refuse a temporary table that hides a captured table, because its rows would be published as rows of the table."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.producer import CaptureError
from support.shop import Models, Shop, open_shop

KEY = "(id INTEGER PRIMARY KEY)"
TEXTS = {
    "all": [
        f"CREATE TEMPORARY TABLE tags {KEY}",
        f"create /* staging */ temporary table if not exists `tags` {KEY}",
        "SELECT 1; CREATE TEMPORARY TABLE tags AS SELECT * FROM orders",
    ],
    "postgresql": [
        "CREATE TEMP TABLE tags ON COMMIT DROP AS SELECT 1 AS id",
        f"CREATE LOCAL TEMPORARY TABLE tags {KEY}",
        f"CREATE TABLE pg_temp.tags {KEY}",
        "SELECT 1 AS id INTO TEMP tags",
        "CREATE OR REPLACE TEMP VIEW tags AS SELECT 1 AS id",
        f"DO $$ BEGIN CREATE TEMP TABLE tags {KEY}; END $$",
    ],
    "sqlite": [
        f'CREATE TEMP TABLE "TAGS" {KEY}',
        f"CREATE TABLE temp.tags {KEY}",
        "CREATE TEMP VIEW tags AS SELECT 1 AS id",
    ],
    "mysql": [f"CREATE OR REPLACE TEMPORARY TABLE tags {KEY}", "CREATE TEMPORARY TABLE tags LIKE orders"],
}


def test_a_temporary_table_with_the_name_of_a_captured_table_is_refused(shop: Shop) -> None:
    dialect = shop.engine.dialect
    texts = [*TEXTS["all"], *TEXTS[dialect.name]]
    for text in texts:
        quoted = text.replace("`", dialect.identifier_preparer.initial_quote)
        with shop.engine.begin() as connection, pytest.raises(CaptureError, match="would hide the captured table"):
            connection.exec_driver_sql(quoted)
    other = sa.Table("tags", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), prefixes=["TEMPORARY"])
    with shop.engine.begin() as connection, pytest.raises(CaptureError, match="Give it another name"):
        other.create(connection, checkfirst=False)
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(shop.models.Tag).values(id=1, name="seen"))
    assert len(shop.take()) == 1


def test_other_temporary_tables_are_let_be(shop: Shop) -> None:
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE staged_tags {KEY}")
        connection.exec_driver_sql("INSERT INTO staged_tags VALUES (7)")
        connection.execute(
            sa.insert(shop.models.Tag).from_select(
                ["id", "name"],
                sa.text("SELECT 7, 'seven'").columns(sa.column("id", sa.Integer), sa.column("name", sa.String)),
            ),
            execution_options={"rowcast": {shop.models.Tag: [7]}},
        )
        connection.exec_driver_sql("DROP TABLE staged_tags")
    assert [change["k"] for change in shop.take()] == [{"id": 7}]


@pytest.mark.parametrize("prefix", ["TEMPORARY", "GLOBAL TEMPORARY", "TEMP"])
def test_a_table_whose_model_is_temporary_is_not_captured(new_database: NewDatabase, prefix: str) -> None:
    models = Models()
    scratch = sa.Table("scratch", models.metadata, sa.Column("id", sa.Integer, primary_key=True), prefixes=[prefix])
    with open_shop(new_database("postgresql"), models=models) as shop:
        with shop.engine.begin() as connection:
            scratch.create(connection, checkfirst=True)
            connection.execute(sa.insert(scratch).values(id=1))
            connection.execute(sa.insert(models.Tag).values(id=1, name="seen"))
        assert [change["t"] for change in shop.take()] == ["public.tags"]
        assert shop.capture.check(shop.engine) == []
