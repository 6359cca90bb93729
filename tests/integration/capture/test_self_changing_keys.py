"""Capture UPDATEs that change a key which they do not name: by ``onupdate``, by a computed column, by a trigger."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from fixtures.databases import ENGINES, NewDatabase
from rowcast.producer import CaptureError
from support.shop import Models, Shop, shop_engine

ENGINES_WITH_RETURNING = ["postgresql", "sqlite"]


def open_pages(url: str, *columns: Any) -> tuple[Shop, sa.Table]:
    """Create a table with the key columns, and four rows. The capture is strict."""
    metadata = sa.MetaData()
    pages = sa.Table("pages", metadata, *columns, sa.Column("n", sa.Integer, unique=True), sa.Column("s", sa.String(9)))
    return Shop(shop_engine(url), cast(Models, SimpleNamespace(metadata=metadata)), strict="raise"), pages


def execute(shop: Shop, *statements: Any) -> None:
    """Execute each statement in a transaction, and compare the outbox with the rows."""
    for statement, *parameters in statements:
        with shop.engine.begin() as connection:
            connection.execute(statement, *parameters)
        shop.take()
        assert shop.mirror == shop.rows()


def of_revisions(pages: sa.Table) -> list[Any]:
    """Return statements that insert rows, and change them by a condition, by the key, and with many parameter sets."""
    named = (pages.c.id == sa.bindparam("old_id")) & (pages.c.revision == 1)
    return [
        (sa.insert(pages), [{"id": i, "n": i} for i in range(5)]),
        (sa.update(pages).where(pages.c.n < 2).values(s="changed"),),
        (sa.update(pages).where(pages.c.id == 2, pages.c.revision == 1).values(s="changed"),),
        (sa.update(pages).where(named), [{"old_id": i, "s": "changed"} for i in (3, 4)]),
    ]


def revisions(onupdate: Any) -> list[sa.Column[Any]]:
    return [
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False, default=1, onupdate=onupdate),
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("onupdate", [sa.text("revision + 1"), 7], ids=["expression", "value"])
def test_a_key_with_an_onupdate(engine: str, onupdate: Any, new_database: NewDatabase) -> None:
    shop, pages = open_pages(new_database(engine), *revisions(onupdate))
    execute(shop, *of_revisions(pages))
    assert {row["s"] for row in shop.rows().values()} == {"changed"}
    shop.engine.dispose()


@pytest.mark.parametrize("engine", ENGINES_WITH_RETURNING)
def test_a_key_with_an_onupdate_that_python_computes(engine: str, new_database: NewDatabase) -> None:
    numbers = iter(range(10, 100))
    shop, pages = open_pages(new_database(engine), *revisions(lambda: next(numbers)))
    execute(shop, *of_revisions(pages))
    assert min(row["revision"] for row in shop.rows().values()) == 10
    shop.engine.dispose()


@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_a_key_that_python_computes_is_refused_where_no_statement_returns_it(
    engine: str, new_database: NewDatabase
) -> None:
    numbers = iter(range(10, 100))
    shop, pages = open_pages(new_database(engine), *revisions(lambda: next(numbers)))
    insert, update, *_ = of_revisions(pages)
    execute(shop, insert)
    with pytest.raises(CaptureError, match="made other primary keys"), shop.engine.begin() as connection:
        connection.execute(*update)
    shop.engine.dispose()


def test_a_computed_key(new_database: NewDatabase) -> None:
    doubled = sa.Computed("n * 2", persisted=True)
    shop, pages = open_pages(
        new_database("postgresql"), sa.Column("id", sa.Integer, doubled, primary_key=True, autoincrement=False)
    )
    execute(
        shop,
        (sa.insert(pages), [{"n": n} for n in range(5)]),
        (sa.update(pages).where(pages.c.n < 2).values(n=pages.c.n + 10),),
        (sa.update(pages).where(pages.c.id == 4).values(n=20),),
        (sa.update(pages).where(pages.c.id == 6).values(s="the same"),),
        (sa.delete(pages).where(pages.c.n == 4),),
    )
    assert sorted(row["id"] for row in shop.rows().values()) == [6, 20, 22, 40]
    upsert = postgresql.insert(pages).values(n=3).on_conflict_do_update(index_elements=["n"], set_={"n": 30})
    with pytest.raises(CaptureError, match="'id' is not known beforehand"):
        execute(shop, (upsert,))
    shop.engine.dispose()


FUNCTIONS = {
    "names the key": "new.slug := lower(new.s); RETURN new;",
    "sets the whole row": "EXECUTE ''SELECT lower($1.s)::varchar(9), $1.n, $1.s'' INTO new USING new; RETURN new;",
    "sets another column": "new.n := coalesce(new.n, 0); RETURN new;",
}


def open_slugs(url: str, function: str) -> tuple[Shop, sa.Table]:
    """Create a table whose key a trigger may change at an UPDATE."""
    shop, pages = open_pages(url, sa.Column("slug", sa.String(9), primary_key=True))
    with shop.engine.begin() as connection:
        if shop.engine.dialect.name == "postgresql":
            connection.exec_driver_sql(
                f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {function} END'"
            )
            what = "BEFORE UPDATE ON pages FOR EACH ROW EXECUTE FUNCTION f()"
        elif shop.engine.dialect.name == "mysql":
            what = "BEFORE UPDATE ON pages FOR EACH ROW SET new.slug = lower(new.s)"
        else:
            what = "AFTER UPDATE OF s ON pages BEGIN UPDATE pages SET slug = lower(s) WHERE slug = new.slug; END"
        connection.exec_driver_sql(f"CREATE TRIGGER t {what}")
    return shop, pages


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_trigger_that_changes_the_key_of_chosen_rows(function: str, new_database: NewDatabase) -> None:
    shop, pages = open_slugs(new_database("postgresql"), FUNCTIONS[function])
    execute(
        shop,
        (sa.insert(pages), [{"slug": f"s{n}", "n": n, "s": f"S{n}"} for n in range(4)]),
        (sa.update(pages).where(pages.c.n < 2).values(s="T" + sa.cast(pages.c.n, sa.String)),),
        (sa.update(pages).where(pages.c.n > 2).values(s="U").returning(pages.c.n),),
    )
    changed = {"s2", "t0", "t1", "u"} if function != "sets another column" else {"s0", "s1", "s2", "s3"}
    assert {row["slug"] for row in shop.rows().values()} == changed
    shop.engine.dispose()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_trigger_that_changes_the_key_of_a_named_row_is_refused(engine: str, new_database: NewDatabase) -> None:
    shop, pages = open_slugs(new_database(engine), FUNCTIONS["names the key"])
    execute(shop, (sa.insert(pages), [{"slug": "a", "n": 1}, {"slug": "b", "n": 2}]))
    with pytest.raises(CaptureError, match="slug='a'"), shop.engine.begin() as connection:
        connection.execute(sa.update(pages).where(pages.c.slug == "a").values(s="C"))
    with shop.engine.connect() as connection:
        assert connection.scalars(sa.select(pages.c.slug).order_by(pages.c.slug)).all() == ["a", "b"]
    shop.engine.dispose()
