"""Publish the rows of an INSERT that a trigger or a rule of PostgreSQL replaces, or refuse the INSERT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.producer import CaptureError
from support.shop import Models, Shop

# An inserted row goes into a child of the table, or it updates the stored row with its key.
BY_TRIGGER = """
CREATE TABLE part (PRIMARY KEY (id)) INHERITS (item);
CREATE FUNCTION redirect() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
UPDATE item SET n = new.n WHERE id = new.id; IF FOUND THEN RETURN NULL; END IF;
INSERT INTO part VALUES (new.*); RETURN NULL; END$$;
CREATE TRIGGER redirect BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION redirect();
"""
BY_RULE = """
CREATE TABLE part (PRIMARY KEY (id)) INHERITS (item);
CREATE RULE redirect AS ON INSERT TO item WHERE new.n > 5 DO INSTEAD INSERT INTO part VALUES (new.*);
"""
LEFT_OUT = """
CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN IF new.n > 5 THEN RETURN NULL; END IF; RETURN NEW; END$$;
CREATE TRIGGER leave_out BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION leave_out();
"""


def tables(**options: Any) -> sa.Table:
    id_, n = sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer)
    return sa.Table("item", sa.MetaData(), id_, n, **options)


@contextmanager
def opened(new_database: NewDatabase, item: sa.Table, sql: str, **options: Any) -> Iterator[Shop]:
    engine = sa.create_engine(new_database("postgresql"))
    shop = Shop(engine, cast(Models, SimpleNamespace(metadata=item.metadata)), **options)
    with engine.begin() as connection:
        connection.exec_driver_sql(sql)
    yield shop
    engine.dispose()


def with_keys(item: sa.Table) -> list[tuple[Any, Any]]:
    """Return INSERTs whose rows give the keys."""
    insert = sa.insert(item)
    return [
        (insert, {"id": 1, "n": 8}),
        (insert, [{"id": 2, "n": 9}, {"id": 3, "n": 1}]),
        (insert.values([{"id": 4, "n": 7}, {"id": 5, "n": 2}]), None),
    ]


def only_with_triggers(item: sa.Table) -> list[tuple[Any, Any]]:
    """Return an INSERT that updates a stored row, and an INSERT with a RETURNING, which the rule forbids."""
    return [(sa.insert(item), {"id": 1, "n": 1}), (sa.insert(item).returning(item.c.n), {"id": 6, "n": 7})]


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("sql", [BY_TRIGGER, BY_RULE], ids=["trigger", "rule"])
def test_rows_that_are_stored_elsewhere_under_their_keys_are_published(
    new_database: NewDatabase, sql: str, implicit: bool
) -> None:
    item = tables(implicit_returning=implicit)
    statements = [*with_keys(item), *(only_with_triggers(item) if sql is BY_TRIGGER else ())]
    with opened(new_database, item, sql) as shop, warnings.catch_warnings():
        warnings.simplefilter("error")
        for statement, parameters in statements:
            with shop.engine.begin() as connection:
                connection.execute(statement, parameters)
            assert shop.take(), statement
            assert shop.mirror == shop.rows(), statement
        if not implicit:
            # SQLAlchemy draws the key, and sends it. Otherwise PostgreSQL cannot return it, with or without capture.
            with shop.engine.begin() as connection:
                connection.execute(sa.text("SELECT setval('item_id_seq', 100)"))
                assert connection.execute(sa.insert(item), {"n": 8}).inserted_primary_key == (101,)
            assert [change["k"] for change in shop.take()] == [{"id": 101}]
            assert shop.mirror == shop.rows()


@pytest.mark.parametrize("sql", [BY_TRIGGER, BY_RULE], ids=["trigger", "rule"])
def test_an_insert_with_drawn_keys_that_may_be_replaced_is_refused(new_database: NewDatabase, sql: str) -> None:
    item = tables(implicit_returning=False)
    source = sa.select(sa.literal(10).label("id"), sa.literal(9).label("n"))
    drawing: list[tuple[Any, Any]] = [
        (sa.insert(item).from_select(["id", "n"], source), None),
        (sa.insert(item), [{"n": 8}, {"n": 9}]),
        (sa.insert(item).values([{"n": 8}, {"n": 9}]), None),
    ]
    with opened(new_database, item, sql, strict="raise") as shop:
        for statement, parameters in drawing:
            with shop.engine.connect() as connection:
                with pytest.raises(CaptureError, match=r"an INSERT that a (trigger|rule) may (have )?replace"):
                    connection.execute(statement, parameters)
                with pytest.raises(CaptureError) if sql is BY_TRIGGER else warnings.catch_warnings():
                    connection.commit()
            assert shop.rows() == {}


def test_rows_that_a_trigger_leaves_out_give_no_event_and_no_error(new_database: NewDatabase) -> None:
    item = tables()
    with opened(new_database, item, LEFT_OUT, strict="raise") as shop:
        with shop.engine.begin() as connection:
            connection.execute(sa.insert(item).values([{"n": 8}, {"n": 2}]))
            connection.execute(sa.insert(item), [{"n": 9}, {"n": 3}])
        assert len(shop.take()) == 2
        assert shop.mirror == shop.rows()
