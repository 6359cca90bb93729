"""Which tables SQL text changes, told by its words."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import Dialect

from rowcast.producer.sql_text import changed_tables

POSTGRESQL, MYSQL = postgresql.dialect(), mysql.dialect()  # type: ignore[no-untyped-call]

METADATA = sa.MetaData()
for schema, name in ((None, "tags"), (None, "orders"), ("stock", "tags"), ("stock", "items")):
    sa.Table(name, METADATA, sa.Column("id", sa.Integer, primary_key=True), schema=schema)


def changed(sql: str, dialect: Dialect = POSTGRESQL) -> list[str]:
    return [table.fullname for table in changed_tables(sql, METADATA.tables.values(), dialect)]


CHANGES_TAGS = [
    "insert or replace into tags (id) values (1)",
    "INSERT tags VALUES (1)",
    "update tags join orders on tags.id = orders.id set name = 'x'",
    "delete tags from tags join orders on tags.id = orders.id",
    'DELETE FROM "tags" WHERE 1 = 1',
    "TRUNCATE TABLE orders, tags",
    "WITH gone AS (DELETE FROM public.tags RETURNING id) SELECT * FROM gone",
    "COPY tags (id, name) FROM STDIN",
    "MERGE INTO tags USING orders ON false WHEN MATCHED THEN DELETE",
    "replace into `tags` values (1)",
    "select 1; /* first */ update/* second */tags set name = ''",
]
CHANGES_NOTHING = [
    "SELECT * FROM tags FOR UPDATE",
    "select 'update tags set name'",
    "-- delete from tags\nselect 1",
    "COPY tags TO STDOUT",
    "select replace(name, 'a', 'b') from tags",
    "insert into elsewhere select * from tags",
    "select $$ update tags set name = 1 $$",
]


@pytest.mark.parametrize("sql", CHANGES_TAGS)
def test_sql_text_that_changes_a_table_is_known_by_its_words(sql: str) -> None:
    assert "tags" in changed(sql)


@pytest.mark.parametrize("sql", CHANGES_NOTHING)
def test_sql_text_that_only_reads_a_table_is_let_be(sql: str) -> None:
    assert changed(sql) == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("tags", ["tags"]),
        ("public.tags", ["tags"]),
        ("stock.tags", ["stock.tags"]),
        ('"stock" . "TAGS"', ["stock.tags"]),
        # By a search path.
        ("items", ["stock.items"]),
        ("elsewhere.items", []),
    ],
)
def test_a_written_name_means_the_table_of_its_schema(written: str, meant: list[str]) -> None:
    assert changed(f"UPDATE {written} SET id = 1") == meant


def test_a_backslash_ends_no_literal_on_mysql_and_does_so_elsewhere() -> None:
    sql = "UPDATE log SET a = 'c:\\'; UPDATE tags SET b = ''"
    assert changed(sql, POSTGRESQL) == ["tags"]
    assert changed(sql, MYSQL) == []
    assert changed('INSERT INTO log VALUES ("update tags set")', MYSQL) == []
