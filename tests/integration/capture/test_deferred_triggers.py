"""Publish what deferred constraint triggers change at COMMIT, and change nothing about their errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from fixtures.databases import NewDatabase
from rowcast.producer.capture import engine_listeners
from support.shop import Shop, open_shop

# The trigger of an uncaptured table also changes a captured row.
TRIGGERS = """
CREATE TABLE line (id INT PRIMARY KEY, tag INT);
CREATE TABLE checked (id INT PRIMARY KEY, parent INT REFERENCES checked DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
IF new.name = 'refused' THEN RAISE EXCEPTION 'no such name'; END IF;
IF new.name = 'deleted' THEN DELETE FROM tags WHERE id = new.id; END IF;
UPDATE tags SET name = name || '!' WHERE id = new.id; RETURN NULL; END$$;
CREATE FUNCTION count_line() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
UPDATE tags SET name = 'line ' || new.id WHERE id = new.tag;
UPDATE readings SET value = -1 WHERE at = new.id; RETURN NULL; END$$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON tags DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mark();
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON line DEFERRABLE INITIALLY IMMEDIATE
FOR EACH ROW EXECUTE FUNCTION count_line();
"""


@contextmanager
def shop_with_triggers(new_database: NewDatabase) -> Iterator[Any]:
    with open_shop(new_database("postgresql")) as shop:
        with shop.engine.begin() as connection:
            connection.exec_driver_sql(TRIGGERS)
        yield shop


def test_what_deferred_triggers_change_is_published(new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    with shop_with_triggers(new_database) as shop:
        tags = shop.models.Tag.__table__

        def insert(connection: sa.Connection, *numbers: int) -> None:
            connection.execute(sa.insert(tags), [{"id": n, "name": f"n{n}"} for n in numbers])

        def names() -> list[str]:
            shop.take()
            assert shop.mirror == shop.rows()
            return sorted(row["name"] for row in shop.rows().values())

        for number in (1, 2):
            with shop.engine.begin() as connection:
                insert(connection, number)
        assert names() == ["n1!", "n2!"]
        with shop.engine.begin() as connection:
            # The trigger runs at the commit for rows that the statement has changed, also for those of another table.
            connection.execute(sa.text("SET CONSTRAINTS ALL DEFERRED"))
            connection.execute(sa.update(tags).where(tags.c.id == 1).values(name="changed"))
            connection.execute(sa.text("INSERT INTO line VALUES (7, 1)"))
        assert names() == ["line 7", "n2!"]
        with shop.engine.connect() as connection:
            insert(connection, 3)
            connection.execute(sa.text("COMMIT"))
            connection.rollback()
            transaction = connection.begin_twophase()
            insert(connection, 4)
            transaction.prepare()
            transaction.commit()
        assert names() == ["line 7", "n2!", "n3!", "n4!"]
        # What is written before the end would lack the work of the triggers.
        monkeypatch.setattr(engine_listeners, "_MAX_NOTED_KEYS", 10)
        with shop.engine.begin() as connection:
            for start in (100, 200):
                insert(connection, *range(start, start + 50))
        assert len(names()) == 104
        readings = shop.models.Reading.__table__
        with shop.engine.begin() as connection:
            connection.execute(sa.insert(readings), [{"sensor": "a", "at": n, "value": n} for n in range(1000)])
        with shop.engine.begin() as connection:
            connection.execute(sa.text("SET CONSTRAINTS ALL DEFERRED"))
            connection.execute(sa.text("INSERT INTO line VALUES (8, 0)"))
            connection.execute(sa.update(readings).where(readings.c.at >= 0).values(value=5))
        shop.take()
        assert shop.mirror == shop.rows()
        assert {row["value"] for name, row in shop.rows().items() if name[0] == "readings"} == {5, -1}


COMMITS = (
    ["INSERT INTO tags VALUES (2, 'refused')"],
    ["INSERT INTO tags VALUES (2, 'x')", "INSERT INTO checked VALUES (1, 9)"],
    ["INSERT INTO tags VALUES (2, 'x')", "INSERT INTO checked VALUES (1, 9)", "INSERT INTO checked VALUES (9, 9)"],
    ["INSERT INTO checked VALUES (1, 9)"],
    ["INSERT INTO tags VALUES (2, 'x')", "INSERT INTO tags VALUES (3, 'x!')"],
)
"""The statements of transactions, most of which fail at COMMIT."""


def test_errors_of_deferred_triggers_and_constraints_are_those_without_the_capture(new_database: NewDatabase) -> None:
    with shop_with_triggers(new_database) as shop:
        tags = shop.models.Tag
        plain = sa.create_engine(shop.engine.url)

        def run(connection: sa.Connection, texts: list[str]) -> None:
            connection.execute(sa.insert(tags), {"id": 1, "name": "first"})
            for text in texts:
                connection.execute(sa.text(text), execution_options={"rowcast": {tags: [1, 2, 3]}})

        def outcome(engine: sa.Engine, texts: list[str]) -> tuple[Any, ...]:
            failure: tuple[Any, ...] = ()
            with engine.connect() as connection:
                try:
                    run(connection, texts)
                    connection.commit()
                except exc.DBAPIError as error:
                    failure = type(error), type(error.orig), str(error), error.statement, error.params
                connection.rollback()
                return failure, connection.execute(sa.text("SELECT id, name FROM tags ORDER BY id")).all()

        errors = 0
        for texts in COMMITS:
            expected = outcome(plain, texts)
            errors += bool(expected[0])
            with plain.begin() as connection:
                connection.execute(sa.text("DELETE FROM tags"))
                connection.execute(sa.text("DELETE FROM checked"))
            assert outcome(shop.engine, texts) == expected
            shop.take()
            assert shop.mirror == shop.rows()
            with shop.engine.begin() as connection:
                connection.execute(sa.delete(tags))
                connection.execute(sa.text("DELETE FROM checked"))
        assert errors == 4
        plain.dispose()


@pytest.mark.parametrize("many", [False, True])
def test_a_deferred_primary_key_that_is_violated_at_commit_gives_the_error_of_the_application(
    new_database: NewDatabase, many: bool
) -> None:
    models: Any = SimpleNamespace(metadata=sa.MetaData())
    key = sa.PrimaryKeyConstraint("id", deferrable=True, initially="DEFERRED")
    item = sa.Table("item", models.metadata, sa.Column("id", sa.Integer), sa.Column("n", sa.Integer), key)
    shop = Shop(sa.create_engine(new_database("postgresql")), models)
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(item), [{"id": n, "n": n} for n in range(1, 800 if many else 3)])
    for engine in (sa.create_engine(shop.engine.url), shop.engine):
        with engine.connect() as connection:
            connection.execute(sa.update(item).values(id=5))
            with pytest.raises(exc.IntegrityError, match="item_pkey"):
                connection.commit()
            connection.rollback()
        engine.dispose()
    # A key may have two rows until the commit.
    with shop.engine.begin() as connection:
        connection.execute(sa.update(item).where(item.c.id == 1).values(id=2))
        connection.execute(sa.update(item).where(item.c.id == 2, item.c.n == 2).values(id=1))
    shop.take()
    assert shop.mirror == shop.rows()
    assert {row["id"]: row["n"] for row in shop.rows().values()}[1] == 2
    shop.engine.dispose()
