"""Capture exactly what the database commits, also where it commits without SQLAlchemy's commit, and refuse the rest."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import create_async_engine

from fixtures.databases import NewDatabase
from integration.capture.conftest import NewShop
from rowcast.producer import Capture
from rowcast.producer.checks.transactions import transactions
from rowcast.shared.errors import CaptureError
from support.shop import Shop

on_mysql = pytest.mark.parametrize("shop", ["mariadb", "mysql"], indirect=True)


def tag(number: int, name: str | None = None) -> dict[str, Any]:
    return {"id": number, "name": name or f"n{number}"}


def insert(shop: Shop, connection: sa.Connection, *numbers: int) -> None:
    for number in numbers:
        connection.execute(sa.insert(shop.models.Tag), tag(number))


def assert_published_as_stored(shop: Shop, *numbers: int) -> None:
    shop.take()
    assert sorted(row["id"] for row in shop.rows().values()) == sorted(numbers)
    assert shop.mirror == shop.rows()


def transactions_of_rows(shop: Shop) -> list[list[int]]:
    """Return the ids of the changed rows of each transaction."""
    with shop.engine.connect() as connection:
        rows = connection.execute(sa.select(shop.outbox.c.tx, shop.outbox.c.changes).order_by(shop.outbox.c.id)).all()
    found: dict[str, int] = {}
    for tx, changes in rows:
        found[tx] = found.get(tx, 0) + changes.count("\n")
    ids = [change["k"]["id"] for change in shop.take()]
    return [[ids.pop(0) for _ in range(size)] for size in found.values()]


@contextmanager
def other_engine(shop: Shop, url: sa.URL | None = None, **options: Any) -> Iterator[sa.Engine]:
    """Make another engine on the shop's database, with the shop's capture."""
    engine = sa.create_engine(url or shop.engine.url, **options)
    shop.capture.install(engine)
    try:
        yield engine
    finally:
        shop.capture.uninstall(engine)
        engine.dispose()


# -- the driver's own autocommit


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("postgresql", {"autocommit": True}),
        ("mariadb", {"autocommit": True}),
        ("mysql", {"autocommit": True}),
        ("sqlite", {"isolation_level": None}),
        pytest.param(
            "sqlite",
            {"autocommit": True},
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has no autocommit before 3.12"),
        ),
    ],
)
def test_a_driver_in_autocommit_is_refused_before_the_statement_runs(
    borrow_shop: NewShop, name: str, arguments: dict[str, Any]
) -> None:
    shop = borrow_shop(name)
    with other_engine(shop, connect_args=arguments) as engine:
        with engine.connect() as connection:
            for _ in range(2):
                with pytest.raises(CaptureError, match=r"tags is captured, but this connection is in AUTOCOMMIT.*trig"):
                    insert(shop, connection, 1)
                connection.rollback()
        assert [finding.message for finding in shop.capture.check(engine)] == [
            "this engine is in AUTOCOMMIT, so a change and its outbox row could not be in one transaction"
        ]
    assert_published_as_stored(shop)


@pytest.mark.parametrize(
    ("name", "driver", "arguments"),
    [
        ("postgresql", "psycopg", {"autocommit": True}),
        ("mariadb", "aiomysql", {"autocommit": True}),
        ("sqlite", "aiosqlite", {"isolation_level": None}),
    ],
)
def test_an_asynchronous_driver_in_autocommit_is_refused(
    borrow_shop: NewShop, name: str, driver: str, arguments: dict[str, Any]
) -> None:
    shop = borrow_shop(name)
    drivername = f"{shop.engine.url.get_backend_name()}+{driver}"
    engine = create_async_engine(shop.engine.url.set(drivername=drivername), connect_args=arguments)

    async def insert_tag() -> None:
        async with engine.connect() as connection:
            with pytest.raises(CaptureError, match="in AUTOCOMMIT"):
                await connection.execute(sa.insert(shop.models.Tag), tag(1))
        await engine.dispose()

    shop.capture.install(engine)
    asyncio.run(insert_tag())
    shop.capture.uninstall(engine)
    assert_published_as_stored(shop)


@pytest.mark.parametrize(
    ("name", "arguments", "begin"),
    [
        ("mariadb", {"autocommit": True}, "START TRANSACTION"),
        ("mysql", {"autocommit": True}, "START TRANSACTION"),
        ("sqlite", {"isolation_level": None}, "BEGIN"),
    ],
)
def test_a_transaction_that_the_application_begins_itself_is_captured(
    borrow_shop: NewShop, name: str, arguments: dict[str, Any], begin: str
) -> None:
    """Begin transactions as SQLAlchemy's documentation of SQLite does."""
    shop = borrow_shop(name)
    with other_engine(shop, connect_args=arguments) as engine:
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        assert not shop.capture.check(engine)
        with engine.connect() as connection:
            with connection.begin_nested():
                insert(shop, connection, 1)
            connection.rollback()
            with connection.begin_nested():
                insert(shop, connection, 2)
            connection.commit()
    assert_published_as_stored(shop, 2)


# -- a savepoint that begins the transaction


def test_a_savepoint_without_a_transaction_is_captured_as_sqlite_commits_it(borrow_shop: NewShop) -> None:
    """sqlite3 begins no transaction before a savepoint, so that the release of the savepoint commits."""
    shop = borrow_shop("sqlite")
    with shop.engine.connect() as connection:
        with connection.begin_nested():
            insert(shop, connection, 1)
            with connection.begin_nested():
                insert(shop, connection, 2)
            with connection.begin_nested() as inner:
                insert(shop, connection, 3)
                inner.rollback()
        connection.rollback()
        insert(shop, connection, 4)
        with connection.begin_nested():
            insert(shop, connection, 5)
        connection.rollback()
        with connection.begin_nested() as outer:
            insert(shop, connection, 6)
            outer.rollback()
        insert(shop, connection, 7)
        connection.commit()
    assert_published_as_stored(shop, 1, 2, 7)


# -- statements that commit


@pytest.mark.shared_dialect
@on_mysql
@pytest.mark.parametrize("ending", ["rollback", "commit"])
@pytest.mark.parametrize(
    "statement",
    [
        sa.schema.CreateTable(sa.Table("other", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))),
        sa.DDL("CREATE TABLE other (id INT PRIMARY KEY)"),
        sa.text("/* a comment */ CREATE TABLE other (id INT PRIMARY KEY)"),
        "/*!50000 CREATE TABLE other (id INT PRIMARY KEY) */",
        "FLUSH TABLES",
        "SET autocommit = 1",
        "START TRANSACTION",
        "ANALYZE TABLE tags",
        "COMMIT",
    ],
    ids=str,
)
def test_changes_that_a_statement_commits_are_published(shop: Shop, statement: Any, ending: str) -> None:
    with shop.engine.connect() as connection:
        try:
            insert(shop, connection, 1, 2)
            if isinstance(statement, str):
                connection.exec_driver_sql(statement)
            else:
                connection.execute(statement)
            connection.exec_driver_sql("SET autocommit = 0")
            insert(shop, connection, 3)
            getattr(connection, ending)()
        finally:
            connection.exec_driver_sql("DROP TABLE IF EXISTS other")
    stored = [[1, 2], [3]] if ending == "commit" else [[1, 2]]
    assert transactions_of_rows(shop) == stored
    assert shop.mirror == shop.rows()


@pytest.mark.shared_dialect
@on_mysql
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TEMPORARY TABLE other (id INT PRIMARY KEY)",
        "SET @x = 1",
        "DO 1",
        "SHOW TABLES",
        "SAVEPOINT mine",
        "CALL quiet()",
    ],
)
def test_a_statement_that_does_not_commit_leaves_one_transaction(shop: Shop, statement: str) -> None:
    with shop.engine.connect() as connection:
        options = {"rowcast": "ignore"} if statement.startswith("CALL") else {}
        if options:
            connection.exec_driver_sql("CREATE PROCEDURE quiet() DO 1")
        try:
            for end in ("rollback", "commit"):
                insert(shop, connection, 1)
                connection.exec_driver_sql(statement, execution_options=options).close()
                insert(shop, connection, 2)
                getattr(connection, end)()
                connection.exec_driver_sql("DROP TEMPORARY TABLE IF EXISTS other")
        finally:
            connection.exec_driver_sql("DROP PROCEDURE IF EXISTS quiet")
    assert transactions_of_rows(shop) == [[1, 2]]
    assert shop.mirror == shop.rows()


@pytest.mark.shared_dialect
@on_mysql
def test_a_procedure_that_commits_publishes_what_it_commits(shop: Shop) -> None:
    with shop.engine.connect() as connection:
        connection.exec_driver_sql("CREATE PROCEDURE committing() COMMIT")
        try:
            insert(shop, connection, 1)
            connection.exec_driver_sql("CALL committing()", execution_options={"rowcast": "ignore"}).close()
            insert(shop, connection, 2)
            connection.rollback()
        finally:
            connection.exec_driver_sql("DROP PROCEDURE committing")
    assert_published_as_stored(shop, 1)


@pytest.mark.shared_dialect
@on_mysql
def test_ddl_that_fails_publishes_what_it_has_committed(shop: Shop) -> None:
    with shop.engine.connect() as connection:
        insert(shop, connection, 1)
        with pytest.raises(exc.OperationalError):
            connection.exec_driver_sql("CREATE TABLE tags (id INT)")
        insert(shop, connection, 2)
        connection.rollback()
        insert(shop, connection, 3)
        with pytest.raises(exc.ProgrammingError):
            connection.exec_driver_sql("CREATE nonsense")
        insert(shop, connection, 4)
        connection.rollback()
    assert_published_as_stored(shop, 1)


@pytest.mark.parametrize("end", ["COMMIT", "end", "/* done */ COMMIT"])
def test_a_commit_in_sql_text_publishes_what_it_commits(shop: Shop, end: str) -> None:
    if end == "end" and shop.engine.dialect.name == "mysql":
        end = "commit and no chain"
    with shop.engine.connect() as connection:
        insert(shop, connection, 1)
        with connection.begin_nested():
            insert(shop, connection, 2)
        connection.execute(sa.text(end))
        insert(shop, connection, 3)
        connection.rollback()
        insert(shop, connection, 4)
        connection.commit()
    assert transactions_of_rows(shop) == [[1, 2], [4]]
    assert shop.mirror == shop.rows()


def test_a_rollback_in_sql_text_leaves_nothing(shop: Shop) -> None:
    with shop.engine.connect() as connection:
        insert(shop, connection, 1)
        connection.commit()
        connection.execute(sa.delete(shop.models.Tag).where(shop.models.Tag.id == 1))
        insert(shop, connection, 2)
        connection.exec_driver_sql("ROLLBACK")
        insert(shop, connection, 3)
        connection.commit()
        insert(shop, connection, 5)
        connection.exec_driver_sql("ROLLBACK")
        connection.commit()
    assert [(change["op"], change["k"]["id"]) for change in shop.take()] == [("c", 1), ("c", 3)]
    assert shop.mirror == shop.rows()


@pytest.mark.shared_dialect
@on_mysql
def test_named_rows_of_text_that_commits_are_refused(shop: Shop) -> None:
    hint = {"rowcast": {shop.models.Reading: [("a", 1)]}}
    with shop.engine.connect() as connection:
        insert(shop, connection, 1)
        with pytest.raises(CaptureError, match=r"readings: the text commits the transaction by itself.*DELETE"):
            connection.execute(sa.text("TRUNCATE readings"), execution_options=hint)
        connection.commit()
    assert_published_as_stored(shop, 1)


@pytest.mark.shared_dialect
@on_mysql
def test_locked_tables_are_captured_together_with_the_outbox(shop: Shop) -> None:
    for number in (8, 9):
        # The first transactions look at all tables.
        with shop.engine.begin() as connection:
            insert(shop, connection, number)
    shop.take()
    with shop.engine.connect() as connection:
        insert(shop, connection, 1)
        connection.exec_driver_sql("LOCK TABLES tags WRITE, rowcast_outbox WRITE, rowcast_shape WRITE")
        insert(shop, connection, 2)
        connection.exec_driver_sql("UNLOCK TABLES")
        insert(shop, connection, 3)
        connection.rollback()
        connection.exec_driver_sql("LOCK TABLES tags WRITE")
        insert(shop, connection, 4)
        with pytest.raises(exc.OperationalError, match="'rowcast_outbox' was not locked"):
            connection.commit()
        connection.rollback()
        connection.exec_driver_sql("UNLOCK TABLES")
    assert transactions_of_rows(shop) == [[1], [2]]
    assert shop.mirror == shop.rows()


# -- transactions that an error ends


def test_a_commit_after_a_failed_statement_ends_as_without_the_capture(shop: Shop) -> None:
    """On PostgreSQL COMMIT rolls back, without an error. The other engines commit the other statements."""
    with shop.engine.connect() as connection:
        insert(shop, connection, 1)
        with pytest.raises(exc.IntegrityError):
            insert(shop, connection, 1)
        connection.commit()
        insert(shop, connection, 2)
        connection.commit()
    assert_published_as_stored(shop, *([2] if shop.engine.dialect.name == "postgresql" else [1, 2]))


def test_what_an_error_of_sqlite_rolls_back_is_not_published(borrow_shop: NewShop) -> None:
    shop = borrow_shop("sqlite")
    with shop.engine.connect() as connection:
        insert(shop, connection, 1)
        connection.commit()
        connection.execute(sa.delete(shop.models.Tag).where(shop.models.Tag.id == 1))
        insert(shop, connection, 2)
        with pytest.raises(exc.IntegrityError):
            connection.execute(sa.insert(shop.models.Tag).prefix_with("OR ROLLBACK"), tag(3, "n2"))
        insert(shop, connection, 4)
        connection.commit()
    assert [(change["op"], change["k"]["id"]) for change in shop.take()] == [("c", 1), ("c", 4)]
    assert shop.mirror == shop.rows()


@on_mysql
def test_what_a_deadlock_rolls_back_is_not_published(shop: Shop) -> None:
    """The application goes on after the error without a rollback."""
    tags = shop.models.Tag.__table__

    def update(connection: sa.Connection, number: int, name: str) -> None:
        connection.execute(sa.update(tags).where(tags.c.id == number).values(name=name))

    with shop.engine.begin() as connection:
        insert(shop, connection, 1, 2)
    shop.take()
    with shop.engine.connect() as one, shop.engine.connect() as other, ThreadPoolExecutor() as threads:
        # Rows of earlier tests may be left in the unique index, so the names are not near each other.
        insert(shop, one, *range(10, 30))
        update(one, 1, "one")
        insert(shop, other, 90)
        update(other, 2, "other")
        waiting = threads.submit(update, one, 2, "one2")
        # The transaction with fewer changes is rolled back.
        with pytest.raises(exc.OperationalError, match="Deadlock"):
            update(other, 1, "other1")
        insert(shop, other, 91)
        other.commit()
        waiting.result()
        one.rollback()
    assert [(change["op"], change["k"]["id"]) for change in shop.take()] == [("c", 91)]
    assert shop.mirror == shop.rows()


@pytest.mark.shared_dialect
@on_mysql
def test_what_stays_after_a_lock_timeout_is_published(shop: Shop) -> None:
    tags = shop.models.Tag.__table__
    # An INSERT in the place of a row that an earlier test deleted would lock the gap beside it.
    first, second, third = 7001, 7003, 7004
    with shop.engine.connect() as one, shop.engine.connect() as other:
        insert(shop, one, first)
        other.execute(sa.text("SET innodb_lock_wait_timeout = 1"))
        insert(shop, other, second)
        with pytest.raises(exc.OperationalError, match="Lock wait timeout"):
            other.execute(sa.update(tags).where(tags.c.id == first).values(name="other"))
        other.execute(sa.text("SET innodb_lock_wait_timeout = 50"))
        insert(shop, other, third)
        other.commit()
    assert_published_as_stored(shop, second, third)


# -- tables without transactions


@pytest.mark.parametrize(("name", "storage"), [("mariadb", "MyISAM"), ("mariadb", "Aria"), ("mysql", "MyISAM")])
def test_a_table_without_transactions_is_refused_before_the_statement_runs(
    new_database: NewDatabase, name: str, storage: str
) -> None:
    engine = sa.create_engine(new_database(name))
    metadata = sa.MetaData()
    item = sa.Table("item", metadata, sa.Column("id", sa.Integer, primary_key=True), mysql_engine=storage)
    capture = Capture(metadata, source="shop")
    capture.install(engine)
    metadata.create_all(engine)
    with engine.connect() as connection:
        for statement in (sa.insert(item), sa.delete(item), sa.insert(item)):
            with pytest.raises(CaptureError, match=rf"item is captured, but its storage engine {storage} has no trans"):
                connection.execute(statement, {"id": 1} if statement.is_insert else {})
        connection.rollback()
        assert connection.execute(sa.select(item)).all() == []
    (finding,) = capture.check(engine)
    assert finding.table == "item"
    assert finding.message.startswith(f"its storage engine {storage} has no transactions")
    assert "ENGINE = InnoDB" in finding.hint
    with engine.begin() as connection:
        connection.execute(sa.insert(metadata.tables["rowcast_shape"]), shape_of(f"{engine.url.database}.item"))
        (finding,) = transactions(connection)
        assert finding.message.endswith(f".item: its storage engine {storage} has no transactions")
    engine.dispose()


def shape_of(name: str) -> dict[str, Any]:
    return {"table_name": name, "version": "v", "shape": "{}", "created_ms": 1, "rows_before": False}


# -- listeners between the drain and COMMIT


@pytest.mark.parametrize("way", ["commit", "prepared"])
def test_changes_of_a_later_listener_of_the_commit_are_published(shop: Shop, way: str) -> None:
    if way == "prepared" and shop.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no prepared transactions")

    def delete(connection: sa.Connection) -> None:
        connection.execute(sa.delete(shop.models.Tag).where(shop.models.Tag.id == 1))

    # The capture knows the statement already when the listener executes it.
    statement = sa.insert(shop.models.Tag)
    todo = [lambda connection: connection.execute(statement, tag(2)), delete]

    def late(connection: sa.Connection, *_: Any) -> None:
        while todo:
            todo.pop(0)(connection)

    name = "commit" if way == "commit" else "prepare_twophase"
    event.listen(shop.engine, name, late)
    try:
        with shop.engine.connect() as connection:
            transaction = connection.begin() if way == "commit" else connection.begin_twophase()
            connection.execute(statement, tag(1))
            if isinstance(transaction, sa.TwoPhaseTransaction):
                transaction.prepare()
            transaction.commit()
            insert(shop, connection, 3)
            connection.rollback()
            insert(shop, connection, 4)
            connection.commit()
    finally:
        event.remove(shop.engine, name, late)
    if way == "commit":
        assert transactions_of_rows(shop) == [[1, 2, 1], [4]]
    assert_published_as_stored(shop, 2, 4)
