"""The outbox has the stored result of each change that any program makes to tables with triggers."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from integration.triggers.conftest import ENGINES, NewTriggerShop
from rowcast.producer.triggers import postgresql
from support.shop import Colour, Models
from support.trigger_shop import TriggerShop, declare, driver_connection, install_on, open_trigger_shop, plain_engine

SEED = (
    "INSERT INTO tags (id, name) VALUES (1, 'x'), (2, 'y'), (3, 'z')",
    "INSERT INTO customers (id, secret) VALUES (1, 'a'), (2, 'b'), (3, NULL)",
    "INSERT INTO notes (id, customer_id, body) VALUES (1, 1, 'one'), (2, 1, 'two'), (3, 2, 'three')",
    "INSERT INTO orders (id, customer_id, amount) VALUES (1, 1, 1.5), (2, 3, 2.25)",
    "INSERT INTO order_tags (order_id, tag_id) VALUES (1, 1), (2, 1), (2, 2)",
    "INSERT INTO readings (sensor, at, value) VALUES ('a', 1, 0.1), ('a', 2, 0.2), ('b', 1, NULL)",
)

MERGE = (
    "MERGE INTO tags USING (VALUES (1, 'one'), (3, NULL), (70, 'new')) AS v (id, name) ON tags.id = v.id "
    "WHEN MATCHED AND v.name IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET name = v.name "
    "WHEN NOT MATCHED THEN INSERT (id, name) VALUES (v.id, v.name)"
)


@pytest.fixture(params=ENGINES)
def shop(request: pytest.FixtureRequest, borrow_shop: NewTriggerShop) -> TriggerShop:
    return seeded(borrow_shop(request.param))


@pytest.fixture
def postgresql_shop(borrow_shop: NewTriggerShop) -> TriggerShop:
    return seeded(borrow_shop("postgresql"))


@pytest.fixture
def new_postgresql_shop(new_database: NewDatabase) -> Iterator[TriggerShop]:
    """Open a shop of the test's own, for tables that only the test has."""
    with open_trigger_shop(new_database("postgresql"), declare(Models())) as shop:
        yield seeded(shop)


def seeded(shop: TriggerShop) -> TriggerShop:
    shop.execute(*SEED)
    shop.take()
    return shop


def captured(shop: TriggerShop, *statements: str) -> list[dict[str, Any]]:
    """Execute the statements in a single transaction. Check that the outbox has all changes, and return the changes."""
    before = shop.rows()
    shop.execute(*statements)
    assert shop.rows() != before, "nothing was changed"
    changes = shop.take()
    assert shop.mirror == shop.rows()
    return changes


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO tags (id, name) VALUES (10, 'ten'), (11, 'el''even')",
        "INSERT INTO tags (id, name) SELECT id + 100, concat('copy of ', name) FROM tags",
        "UPDATE tags SET name = concat(name, '!') WHERE id > 1",
        "UPDATE orders SET amount = amount * 1.5, status = 'paid'",
        "UPDATE readings SET at = at + 10 WHERE sensor = 'a'",
        "UPDATE readings SET sensor = 'c', at = 7 WHERE sensor = 'b'",
        "DELETE FROM order_tags WHERE order_id = 2",
        "DELETE FROM readings",
    ],
)
def test_sql_text_is_captured(shop: TriggerShop, statement: str) -> None:
    if shop.engine.dialect.name == "sqlite":
        statement = statement.replace("concat('copy of ', name)", "'copy of ' || name").replace(
            "concat(name, '!')", "name || '!'"
        )
    captured(shop, statement)


def test_every_type_is_written_as_the_drain_writes_it(shop: TriggerShop) -> None:
    """The ORM writes the rows, and ``rows`` reads them with the drain's expression."""
    m = shop.models
    with shop.sessions.begin() as session:
        session.add_all(
            [
                m.Customer(
                    id=100, name="it's \\ 'q\" \t\n% :x é😀", secret="abc", settings={"deep": [1, None, "é😀"]},
                    colour=Colour.BLUE, orders=[m.Order(id=100, amount=Decimal("-9.95"))],
                    notes=[m.Note(id=100 + n, body="b", data=bytes(range(n)) * 7) for n in (0, 1, 2, 3, 255)],
                ),
                m.Token(used=True), m.Token(), m.Reading(sensor="é", at=-1, value=0.1 + 0.2),
                m.Engineer(name="e", language="python"),
            ]
        )  # fmt: skip
    changes = shop.take()
    assert {change["t"].split(".")[1] for change in changes} == {
        "customers", "orders", "notes", "tokens", "readings", "people", "engineers"
    }  # fmt: skip
    assert shop.mirror == shop.rows()


def test_a_changed_key_is_a_delete_then_a_create(shop: TriggerShop) -> None:
    changes = captured(shop, "UPDATE readings SET at = 77 WHERE sensor = 'a' AND at = 1")
    assert [(c["op"], c["k"]["at"]) for c in changes] == [("d", 1), ("c", 77)]


def test_upserts_are_captured(shop: TriggerShop) -> None:
    insert = "INSERT INTO tags (id, name) VALUES (2, 'two'), (9, 'nine')"
    if shop.engine.dialect.name == "mariadb" or shop.engine.dialect.name == "mysql":
        changes = captured(shop, f"{insert} ON DUPLICATE KEY UPDATE name = VALUES(name)")
    else:
        changes = captured(shop, f"{insert} ON CONFLICT (id) DO UPDATE SET name = excluded.name")
    assert {(c["op"], c["k"]["id"]) for c in changes} == {("u", 2), ("c", 9)}


def test_a_rollback_leaves_nothing(shop: TriggerShop) -> None:
    with shop.other.connect() as connection:
        connection.exec_driver_sql("UPDATE tags SET name = 'gone' WHERE id = 1")
        connection.rollback()
        connection.exec_driver_sql("UPDATE tags SET name = 'kept' WHERE id = 1")
        savepoint = connection.begin_nested()
        connection.exec_driver_sql("UPDATE tags SET name = 'gone' WHERE id = 2")
        connection.exec_driver_sql("DELETE FROM readings")
        savepoint.rollback()
        connection.exec_driver_sql("UPDATE tags SET name = 'kept, too' WHERE id = 3")
        connection.commit()
    assert [c["k"] for c in shop.take()] == [{"id": 1}, {"id": 3}]
    assert shop.mirror == shop.rows()


def test_a_statement_that_fails_leaves_nothing(shop: TriggerShop) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        shop.execute("INSERT INTO tags (id, name) VALUES (20, 'new'), (21, 'x')")
    assert shop.take() == []


def test_a_statement_that_fails_in_a_later_row_leaves_nothing_of_its_first_rows(shop: TriggerShop) -> None:
    if shop.engine.dialect.name == "postgresql":
        pytest.skip("the transaction cannot go on there")
    with shop.other.begin() as connection:
        for failing in ("INSERT INTO tags (id, name) VALUES (20, 'new'), (1, 'x')", "UPDATE tags SET name = 'same'"):
            with pytest.raises(sa.exc.IntegrityError):
                connection.exec_driver_sql(failing)
        connection.exec_driver_sql("UPDATE tags SET name = 'kept' WHERE id = 3")
    assert [c["k"] for c in shop.take()] == [{"id": 3}]
    assert shop.mirror == shop.rows()


def test_cascades_of_the_database_are_captured(shop: TriggerShop) -> None:
    """Cascades are not captured on MariaDB, and the installation says so."""
    if shop.engine.dialect.name in ("mariadb", "mysql"):
        pytest.skip("foreign keys fire no triggers on MariaDB: see test_capture_mode")
    changes = captured(shop, "DELETE FROM order_tags", "DELETE FROM orders", "DELETE FROM customers WHERE id < 3")
    assert {c["k"]["id"] for c in changes if c["t"].endswith(".notes")} == {1, 2, 3}


def test_many_rows_of_one_statement_are_captured(shop: TriggerShop) -> None:
    """PostgreSQL writes outbox rows of 2,000 lines, and the other engines a row for each line."""
    rows = 4_500 if shop.engine.dialect.name == "postgresql" else 500
    with shop.other.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO readings (sensor, at, value) VALUES ('many', :at, 0.5)"),
            [{"at": at} for at in range(rows)],
        )
        connection.exec_driver_sql("UPDATE readings SET at = at + 1, value = value + at WHERE sensor = 'none'")
    shop.take()
    shop.execute("UPDATE readings SET value = value + at WHERE sensor = 'many'")
    lines = [text.count("\n") for text in outbox_texts(shop)]
    assert sum(lines) == rows
    if shop.engine.dialect.name == "postgresql":
        assert sorted(lines) == [500, 2_000, 2_000]
    shop.take()
    assert shop.mirror == shop.rows()


def test_long_rows_of_one_statement_become_several_outbox_rows(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_MAX_BYTES", 500)
    with open_trigger_shop(new_database("postgresql"), declare(Models())) as shop:
        shop.execute("INSERT INTO tags (id, name) SELECT n, n FROM generate_series(1, 40) AS n")
        assert len(outbox_texts(shop)) > 5
        assert max(map(len, outbox_texts(shop))) < 2 * 500
        shop.take()
        assert shop.mirror == shop.rows()
        shop.execute("UPDATE tags SET id = -id")
        assert len(outbox_texts(shop)) > 5
        shop.take()
        assert shop.mirror == shop.rows()


def outbox_texts(shop: TriggerShop) -> list[str]:
    with shop.engine.connect() as connection:
        return list(connection.scalars(sa.select(shop.outbox.c.changes).order_by(shop.outbox.c.id)))


@contextmanager
def names_in_capitals(shop: TriggerShop) -> Iterator[None]:
    """Let triggers of the application write the names of tags in capitals, until the block ends."""
    match shop.engine.dialect.name:
        case "postgresql":
            function = (
                "CREATE FUNCTION polish() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN UPDATE tags SET name = upper(name) WHERE id = NEW.id AND name <> upper(name); "
                "IF NEW.name = 'away' THEN DELETE FROM tags WHERE id = NEW.id; END IF; RETURN NULL; END $$"
            )
            trigger = "CREATE TRIGGER polish AFTER INSERT OR UPDATE ON tags FOR EACH ROW EXECUTE FUNCTION polish()"
            create = [function, trigger]
            drop = ["DROP FUNCTION polish CASCADE"]
        case "sqlite":
            events = ("INSERT", "UPDATE")
            create = [
                f"CREATE TRIGGER a_polish_{event} AFTER {event} ON tags BEGIN "
                "UPDATE tags SET name = upper(name) WHERE id = NEW.id AND name <> upper(name); "
                "DELETE FROM tags WHERE NEW.name = 'away' AND id = NEW.id; END"
                for event in events
            ]
            drop = [f"DROP TRIGGER a_polish_{event}" for event in events]
        case _:
            # On MariaDB a trigger cannot change its own table, but a BEFORE trigger can change the new row.
            create = ["CREATE TRIGGER polish BEFORE INSERT ON tags FOR EACH ROW SET NEW.name = upper(NEW.name)"]
            drop = ["DROP TRIGGER polish"]
    shop.execute(*create)
    try:
        yield
    finally:
        shop.execute(*drop)


def test_a_row_that_the_applications_own_trigger_changes_again_is_captured_as_stored(shop: TriggerShop) -> None:
    """The application's trigger runs before the capture's trigger. Therefore the row given to the capture's trigger is
    older than the line already written."""
    with names_in_capitals(shop):
        captured(shop, "INSERT INTO tags (id, name) VALUES (50, 'fifty'), (51, 'fifty-one')")
        assert shop.mirror["tags", b'{"id":50}']["name"] == "FIFTY"
        if shop.engine.dialect.name not in ("mariadb", "mysql"):
            captured(shop, "UPDATE tags SET name = 'three', id = 30 WHERE id = 3")
            shop.execute("INSERT INTO tags (id, name) VALUES (60, 'away')")
            shop.take()
            assert shop.mirror == shop.rows()
            assert ("tags", b'{"id":60}') not in shop.mirror


def test_replace_is_captured(shop: TriggerShop) -> None:
    match shop.engine.dialect.name:
        case "postgresql":
            pytest.skip("PostgreSQL has no REPLACE")
        case "sqlite":
            # SQLite fires no delete triggers for the rows that REPLACE deletes.
            captured(shop, "INSERT OR IGNORE INTO tags (id, name) VALUES (39, 'x'), (38, 'ok')")
            captured(shop, "DELETE FROM order_tags", "DELETE FROM tags WHERE id = 1")
            captured(shop, "INSERT INTO tags (id, name) VALUES (1, 'x')")
            captured(shop, "REPLACE INTO tags (id, name) VALUES (40, 'z'), (41, 'new'), (2, 'same key')")
            captured(shop, "UPDATE OR REPLACE tags SET name = 'new' WHERE id = 2")
            with shop.other.begin() as connection:
                connection.exec_driver_sql("PRAGMA recursive_triggers=ON")
                connection.exec_driver_sql("REPLACE INTO tags (id, name) VALUES (42, 'new'), (43, 'x')")
            shop.take()
            assert shop.mirror == shop.rows()
            assert shop.execute_scalars("SELECT count(*) FROM rowcast_displaced") == [0]
        case _:
            captured(shop, "REPLACE INTO tags (id, name) VALUES (40, 'z'), (41, 'new')")
    assert ("tags", b'{"id":3}') not in shop.mirror


def test_a_stored_procedure_is_captured(shop: TriggerShop) -> None:
    match shop.engine.dialect.name:
        case "sqlite":
            pytest.skip("SQLite has no procedures")
        case "postgresql":
            shop.execute(
                "CREATE PROCEDURE pay(n integer) LANGUAGE sql AS $$ UPDATE orders SET status = 'paid' WHERE id = n $$"
            )
        case _:
            shop.execute("CREATE PROCEDURE pay(n integer) UPDATE orders SET status = 'paid' WHERE id = n")
    try:
        captured(shop, "CALL pay(1)")
    finally:
        shop.execute("DROP PROCEDURE pay")


@pytest.mark.parametrize(
    "statements",
    [
        ["TRUNCATE readings"],
        ["TRUNCATE customers, tags CASCADE"],
        [MERGE],
        [
            "DELETE FROM order_tags",
            "WITH gone AS (DELETE FROM tags RETURNING id, name) INSERT INTO tags SELECT id + 10, name FROM gone",
        ],
        ["WITH u AS (UPDATE tags SET name = 'n' || id RETURNING id) UPDATE orders SET status = 'w' FROM u"],
        ["DO $$ BEGIN FOR i IN 80..89 LOOP INSERT INTO tags (id, name) VALUES (i, 'n' || i); END LOOP; END $$"],
        ["UPDATE readings SET value = 'NaN'", "UPDATE readings SET value = '-Infinity' WHERE at = 1"],
    ],
)
def test_statements_of_postgresql_alone_are_captured(postgresql_shop: TriggerShop, statements: list[str]) -> None:
    captured(postgresql_shop, *statements)


def test_copy_is_captured(postgresql_shop: TriggerShop) -> None:
    with (
        postgresql_shop.other.begin() as connection,
        driver_connection(connection).cursor() as cursor,
        cursor.copy("COPY readings (sensor, at, value) FROM STDIN") as copy,
    ):
        for at in range(5_000):
            copy.write_row(("copied", at, at / 7))
    assert len(postgresql_shop.take()) == 5_000
    assert postgresql_shop.mirror == postgresql_shop.rows()


def test_the_sessions_settings_do_not_change_what_is_written(postgresql_shop: TriggerShop) -> None:
    captured(
        postgresql_shop,
        "SET LOCAL extra_float_digits = -3", "SET LOCAL DateStyle = 'German'", "SET LOCAL TimeZone = 'Asia/Tokyo'",
        "INSERT INTO readings (sensor, at, value) VALUES ('pi', 1, 3.141592653589793)",
        "INSERT INTO orders (id, customer_id, amount, placed, created) VALUES (90, 1, 1, '2026-11-21', now())",
    )  # fmt: skip


def test_a_child_with_two_foreign_keys_is_captured_as_stored(new_postgresql_shop: TriggerShop) -> None:
    """Both actions change the same row, and a single trigger is called for both."""
    shop = new_postgresql_shop
    shop.execute(
        "CREATE TABLE links (id int PRIMARY KEY, a int REFERENCES tags ON DELETE SET NULL ON UPDATE CASCADE, "
        "b int REFERENCES tags ON DELETE SET NULL ON UPDATE CASCADE)"
    )
    install_on(shop.engine, None, ["links"])
    sa.Table("links", shop.models.metadata, autoload_with=shop.engine, info={"rowcast": "triggers"})
    shop.execute("DELETE FROM order_tags", "INSERT INTO links SELECT i, 1, 1 FROM generate_series(1, 50) AS i")
    shop.take()
    captured(shop, "UPDATE tags SET id = 100 WHERE id = 1")
    captured(shop, "DELETE FROM tags WHERE id = 100")


def test_a_role_without_rights_on_the_outbox_is_captured(postgresql_shop: TriggerShop) -> None:
    shop = postgresql_shop
    role = f"clerk_{random.randrange(10**9)}"
    shop.execute(f"CREATE ROLE {role}", f"GRANT ALL ON tags TO {role}")
    try:
        captured(shop, f"SET LOCAL ROLE {role}", "UPDATE tags SET name = 'by the clerk' WHERE id = 1")
    finally:
        shop.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_partitioned_table_is_captured_through_its_parent(new_postgresql_shop: TriggerShop) -> None:
    shop = new_postgresql_shop
    shop.execute(
        "CREATE TABLE parts (region text, id int, note text, PRIMARY KEY (region, id)) PARTITION BY LIST (region)",
        "CREATE TABLE parts_north PARTITION OF parts FOR VALUES IN ('n')",
        "CREATE TABLE parts_south PARTITION OF parts FOR VALUES IN ('s')",
    )
    install_on(shop.engine, None, ["parts"])
    parts = sa.Table("parts", shop.models.metadata, autoload_with=shop.engine, info={"rowcast": "triggers"})
    assert len(parts.primary_key) == 2
    captured(shop, "INSERT INTO parts VALUES ('n', 1, 'a'), ('s', 1, 'b')")
    changes = captured(shop, "UPDATE parts SET region = 's', id = 2 WHERE region = 'n'")
    assert [(c["op"], c["t"]) for c in changes] == [("d", "public.parts"), ("c", "public.parts")]
    captured(shop, "TRUNCATE parts")


class Batch(threading.Thread):
    """Run transactions of several statements. Every row names its transaction."""

    def __init__(self, engine: sa.Engine, writer: int, transactions: range) -> None:
        super().__init__(daemon=True)
        self.engine, self.writer, self.transactions = engine, writer, transactions
        self.random = random.Random(writer)
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with self.engine.connect() as connection:
                for n in self.transactions:
                    for i in range(self.random.randint(1, 4)):
                        connection.exec_driver_sql(
                            "INSERT INTO readings (sensor, at, value) VALUES "
                            f"('{self.writer}-{n}', {2 * i}, {n}), ('{self.writer}-{n}', {2 * i + 1}, {n})"
                        )
                        if self.random.random() < 0.2:
                            with connection.begin_nested() as savepoint:
                                connection.exec_driver_sql(
                                    f"INSERT INTO readings (sensor, at) VALUES ('undone {self.writer}', 0)"
                                )
                                savepoint.rollback()
                    if self.random.random() < 0.15:
                        connection.rollback()
                    else:
                        connection.commit()
        except BaseException as error:  # noqa: BLE001
            self.error = error


def interleave(engine: sa.Engine, transactions: range) -> None:
    """Run numbered transactions of several statements on four connections at once."""
    threads = [Batch(engine, writer, transactions) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
        if thread.error is not None:
            raise thread.error


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_interleaved_transactions_keep_their_own_names(borrow_shop: NewTriggerShop, engine: str) -> None:
    shop = borrow_shop(engine)
    interleave(shop.other, range(30))
    batches: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}
    with shop.engine.connect() as connection:
        for tx, text in connection.execute(sa.select(shop.outbox.c.tx, shop.outbox.c.changes)):
            for batch in {line.split('"sensor"')[1].split('"')[1] for line in text.splitlines()}:
                batches.setdefault(batch, set()).add(tx)
                names.setdefault(tx, set()).add(batch)
    assert len(batches) > 75
    assert all(len(of) == 1 for of in batches.values()), "a transaction has two names"
    assert all(len(of) == 1 for of in names.values()), "two transactions have one name"


def test_mariadbs_registry_of_transactions_stays_empty(borrow_shop: NewTriggerShop) -> None:
    """The transaction's number is read from a row that is deleted again, so that no table grows."""
    shop = borrow_shop("mariadb")
    shop.execute(*SEED)
    with shop.engine.connect() as connection:
        left = connection.exec_driver_sql("SELECT count(*) FROM rowcast_transaction FOR SYSTEM_TIME ALL").scalar()
        registry = connection.exec_driver_sql("SELECT count(*) FROM mysql.transaction_registry").scalar()
    assert (left, registry) == (0, 0)


def test_an_installation_replaces_an_older_function_on_mariadb(borrow_shop: NewTriggerShop) -> None:
    shop = borrow_shop("mariadb")
    shop.execute("CREATE OR REPLACE FUNCTION rowcast_transaction_id() RETURNS bigint unsigned RETURN 7")
    install_on(shop.engine, shop.models.metadata, ["tags"])
    shop.execute("INSERT INTO tags (id, name) VALUES (20, 'new')")
    with shop.engine.connect() as connection:
        assert connection.scalar(sa.select(shop.outbox.c.tx)) != "7"


def test_the_applications_generated_ids_stay_right(shop: TriggerShop) -> None:
    """A trigger's insert into the outbox also draws an id, before the driver asks for the last id."""
    if shop.engine.dialect.name == "postgresql":
        pytest.skip("drivers do not ask for it there, and lastval() is another's: docs/how-to/triggers.md says so")
    shop.execute("UPDATE readings SET value = 1", "UPDATE readings SET value = 2")
    with shop.other.begin() as connection:
        result = connection.exec_driver_sql("INSERT INTO tags (name) VALUES ('generated')")
        assert result.rowcount == 1
        found = connection.exec_driver_sql("SELECT id FROM tags WHERE name = 'generated'").scalar_one()
        assert found == result.lastrowid


def test_autocommitted_statements_are_transactions_of_their_own(shop: TriggerShop) -> None:
    engine = plain_engine(shop.engine.url).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE tags SET name = 'a' WHERE id = 1")
        connection.exec_driver_sql("UPDATE tags SET name = 'b' WHERE id = 2")
    engine.dispose()
    with shop.engine.connect() as connection:
        names = connection.scalars(sa.select(shop.outbox.c.tx)).all()
    # SQLite cannot separate the transactions. Publishing them together is harmless with a single writer.
    assert len(set(names)) == (1 if shop.engine.dialect.name == "sqlite" else 2)
    shop.take()
    assert shop.mirror == shop.rows()
