"""The words of SQL text show which tables change."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import Dialect

from rowcast.producer.capture.sql_text import calls_code, changed_tables, hidden_tables, truncated_tables, words_of

POSTGRESQL, MYSQL = postgresql.dialect(), mysql.dialect()

METADATA = sa.MetaData()
for schema, name in ((None, "tags"), (None, "orders"), ("stock", "tags"), ("stock", "items")):
    sa.Table(name, METADATA, sa.Column("id", sa.Integer, primary_key=True), schema=schema)


def changed(sql: str, dialect: Dialect = POSTGRESQL) -> list[str]:
    return [table.fullname for table in changed_tables(sql, METADATA.tables.values(), dialect)]


CHANGES_TAGS = [
    "GRANT DELETE ON t TO shop; DELETE FROM tags",
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
    "DO $$ BEGIN UPDATE tags SET name = 'x'; END $$",
    "-- once\ndo language plpgsql $body$ begin delete from tags; end $body$",
    "DO 'BEGIN INSERT INTO tags VALUES (1); END'",
    "CREATE TRIGGER t AFTER DELETE ON orders FOR EACH ROW EXECUTE FUNCTION f(); DELETE FROM tags",
    "CREATE TRIGGER t AFTER DELETE ON orders BEGIN SELECT 1; END; DELETE FROM tags",
    "CREATE TABLE begin_end (id INTEGER); DELETE FROM tags",
]
CHANGES_NOTHING = [
    "GRANT SELECT, INSERT, DELETE ON tags TO shop",
    "-- rights\nREVOKE UPDATE ON tags FROM shop; SELECT 1",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, DELETE ON TABLES TO tags",
    "SELECT * FROM tags FOR UPDATE",
    "select 'update tags set name'",
    "-- delete from tags\nselect 1",
    "COPY tags TO STDOUT",
    "CREATE TRIGGER r BEFORE UPDATE ON tags FOR EACH ROW SET new.name = 'x'",
    "create trigger r after delete on tags for each row set @n = 1",
    "select replace(name, 'a', 'b') from tags",
    "insert into elsewhere select * from tags",
    "select $$ update tags set name = 1 $$",
    "CREATE TRIGGER t AFTER DELETE ON tags FOR EACH ROW EXECUTE FUNCTION f()",
    "CREATE TRIGGER t AFTER UPDATE ON tags BEGIN UPDATE tags SET name = 'x'; DELETE FROM orders; END",
    "CREATE DEFINER = `root`@`%` TRIGGER t BEFORE UPDATE ON tags FOR EACH ROW SET new.name = 'x'",
    "CREATE OR REPLACE FUNCTION f() RETURNS void BEGIN ATOMIC INSERT INTO tags VALUES (1); END",
    "-- soft deletes\nCREATE OR REPLACE RULE r AS ON DELETE TO tags DO INSTEAD UPDATE tags SET name = 'x'",
]


@pytest.mark.parametrize(
    ("sql", "calls"),
    [
        ("CALL raise_prices(1)", True),
        ("-- nightly\n call shop.raise_prices()", True),
        ("SELECT 1; EXECUTE change_tags (1)", True),
        ("DO $$ BEGIN EXECUTE 'UPDATE ' || 'tags'; END $$", True),
        ("DO $$ BEGIN CALL raise_prices(1); END $$", True),
        ("SELECT 'call raise_prices(1)'", False),
        ("CREATE PROCEDURE raise_prices() LANGUAGE sql BEGIN ATOMIC; CALL other(); END", False),
        ("CREATE TRIGGER t AFTER INSERT ON tags FOR EACH ROW EXECUTE FUNCTION f()", False),
        ("GRANT EXECUTE ON PROCEDURE raise_prices TO shop", False),
        ("SELECT call, execute FROM tags", False),
        ("DO $$ BEGIN NULL; END $$", False),
    ],
)
def test_a_text_that_runs_code_of_the_database_is_known(sql: str, calls: bool) -> None:
    assert calls_code(sql, POSTGRESQL) is calls
    if not sql.startswith("DO"):
        assert calls_code(sql, MYSQL) is calls


@pytest.mark.parametrize("sql", CHANGES_TAGS)
def test_sql_text_that_changes_a_table_is_known_by_its_words(sql: str) -> None:
    assert "tags" in changed(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "/*!50000 UPDATE */ tags SET name = 'x'",
        "UPDATE /*M!100100 tags */ SET name = 'x'",
        "DELETE FROM t USING tags AS t WHERE t.id = 1",
        "DELETE t FROM tags AS t WHERE t.id = 1",
    ],
)
def test_mysql_text_that_changes_a_table_is_known_by_its_words(sql: str) -> None:
    assert "tags" in changed(sql, MYSQL)


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
        # Found by the search path.
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


def test_the_words_of_a_text_are_its_verbs_and_names_but_no_functions_literals_or_rights() -> None:
    sql = "GRANT DELETE ON tags TO shop; UPDATE tags SET \"Name\" = replace(id, 'a', 'truncate') -- delete"
    assert words_of(sql, POSTGRESQL) == {"update", "tags", "set", "name", "id"}
    assert "delete" in words_of("DO $$ BEGIN DELETE FROM tags; END $$", POSTGRESQL)


@pytest.mark.parametrize(
    ("sql", "hidden", "hidden_on_mysql"),
    [
        ("CREATE TEMPORARY TABLE tags (id INTEGER)", ["tags"], ["tags"]),
        ("create temp table if not exists Tags as select 1", ["tags"], ["tags"]),
        ("CREATE TABLE pg_temp.tags (id INTEGER)", ["tags"], []),
        ("SELECT 1 INTO LOCAL TEMP TABLE tags", ["tags"], ["tags"]),
        ("CREATE TEMP RECURSIVE VIEW tags (id) AS SELECT 1", ["tags"], ["tags"]),
        ("DO $$ BEGIN CREATE TEMP TABLE tags (id INTEGER); END $$", ["tags"], ["tags"]),
        # MySQL's temporary tables are in the schemas of the other tables.
        ("CREATE TEMPORARY TABLE stock.tags (id INTEGER)", [], ["stock.tags"]),
        ("CREATE TABLE tags (id INTEGER)", [], []),
        ("CREATE TABLE copies AS SELECT * FROM temporary, tags", [], []),
        ("CREATE TEMP TABLE staged AS SELECT * FROM tags", [], []),
        ("SELECT 'CREATE TEMP TABLE tags'", [], []),
        ("INSERT INTO temporary (tags) VALUES (1)", [], []),
    ],
)
def test_a_temporary_table_hides_the_tables_that_the_engine_finds_after_it(
    sql: str, hidden: list[str], hidden_on_mysql: list[str]
) -> None:
    tables = METADATA.tables.values()
    assert [table.fullname for table in hidden_tables(sql, tables, POSTGRESQL)] == hidden
    assert [table.fullname for table in hidden_tables(sql, tables, MYSQL)] == hidden_on_mysql


@pytest.mark.parametrize(
    ("sql", "names", "cascades"),
    [
        ("TRUNCATE tags", ["tags"], False),
        (
            "-- a\ntruncate table only orders, stock . tags * restart identity cascade ;",
            ["orders", "stock.tags"],
            True,
        ),
        ('TRUNCATE "orders" RESTRICT', ["orders"], False),
        ("TRUNCATE elsewhere CONTINUE IDENTITY", [], False),
    ],
)
def test_a_truncate_names_its_tables(sql: str, names: list[str], cascades: bool) -> None:
    found = truncated_tables(sql, METADATA.tables.values(), POSTGRESQL)
    assert found is not None
    assert ([table.fullname for table in found[0]], found[1]) == (names, cascades)


@pytest.mark.parametrize("sql", ["TRUNCATE tags; SELECT 1", "SELECT truncate(1)", "TRUNCATE f(tags)"])
def test_other_text_is_no_truncate(sql: str) -> None:
    assert truncated_tables(sql, METADATA.tables.values(), POSTGRESQL) is None
