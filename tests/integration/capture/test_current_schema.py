"""Capture tenants that SQL text moves to other schemas: by SET search_path on PostgreSQL, by USE on MariaDB and MySQL.

An event names the schema in which the row is, or the statement or the commit fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, sessionmaker

from fixtures.databases import NewDatabase
from rowcast.producer import Capture, CaptureError
from rowcast.producer.outbox.block_parser import ChangeSplitter
from support.sent_statements import sent_statements


class Tenants:
    """Hold tables that exist in the default schema and in the schemas ``ta`` and ``tb``."""

    def __init__(self, url: str) -> None:
        self.metadata = sa.MetaData()
        self.item = sa.Table(
            "item", self.metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer)
        )
        self.part = sa.Table(
            "part",
            self.metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("item_id", sa.ForeignKey("item.id", ondelete="CASCADE")),
        )
        self.engine = sa.create_engine(url, pool_size=1, max_overflow=0)
        self.capture = Capture(self.metadata, source="s", strict="raise")
        self.capture.install(self.engine)
        self.metadata.create_all(self.engine, checkfirst=False)
        self.statements = 0

    def create(self, schema: str, tables: list[sa.Table] | None = None) -> None:
        """Create the tables in a schema."""
        with self.engine.connect().execution_options(schema_translate_map={None: schema}) as connection:
            self.metadata.create_all(connection, tables=tables or [self.item, self.part], checkfirst=False)
            connection.commit()

    def events(self) -> list[tuple[str, str, int]]:
        """Return table, operation and id of each change in the outbox, and empty the outbox."""
        outbox = self.metadata.tables["rowcast_outbox"]
        with self.engine.begin() as connection:
            texts = connection.scalars(sa.select(outbox.c.changes).order_by(outbox.c.id)).all()
            connection.execute(outbox.delete())
        changes = [change for text in texts for change in ChangeSplitter().split(text)]
        return [(head.table, head.op, orjson.loads(key)["id"]) for head, key, *_ in changes]

    def insert(self, connection: Connection, id_: int) -> None:
        connection.execute(sa.insert(self.item).values(id=id_, n=id_))


@pytest.fixture
def tenants(new_database: NewDatabase) -> Iterator[Tenants]:
    """Return tenants on PostgreSQL."""
    tenants = Tenants(new_database("postgresql"))
    with tenants.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA ta; CREATE SCHEMA tb")
    tenants.create("ta")
    tenants.create("tb")
    yield tenants
    tenants.engine.dispose()


def _set_local_text(connection: Connection, schema: str) -> None:
    connection.execute(sa.text(f"SET LOCAL search_path TO {schema}, public"))


def _set_driver_sql(connection: Connection, schema: str) -> None:
    connection.exec_driver_sql(f"set search_path = {schema}, public")


def _set_config_text(connection: Connection, schema: str) -> None:
    set_config = sa.text("SELECT set_config(:name, :path, true)")
    connection.execute(set_config, {"name": "search_path", "path": f"{schema}, public"})


def _set_config_function(connection: Connection, schema: str) -> None:
    connection.execute(sa.select(sa.func.set_config("search_path", f"{schema}, public", True)))


WAYS = [_set_local_text, _set_driver_sql, _set_config_text, _set_config_function]


@pytest.mark.parametrize("move", WAYS)
def test_events_name_the_schema_that_the_search_path_gives(
    tenants: Tenants, move: Callable[[Connection, str], None]
) -> None:
    with tenants.engine.begin() as connection:
        tenants.insert(connection, 1)
    for schema in ("ta", "tb"):
        with tenants.engine.begin() as connection:
            move(connection, schema)
            tenants.insert(connection, 1)
            connection.execute(sa.insert(tenants.part), [{"id": 5, "item_id": 1}, {"id": 6, "item_id": 1}])
            connection.execute(sa.update(tenants.item).where(tenants.item.c.n == 1).values(n=2))
        with tenants.engine.begin() as connection:
            move(connection, schema)
            connection.execute(sa.delete(tenants.item).where(tenants.item.c.id == 1))
    assert tenants.events() == [
        ("public.item", "c", 1),
        ("ta.item", "c", 1), ("ta.part", "c", 5), ("ta.part", "c", 6),
        ("ta.part", "d", 5), ("ta.part", "d", 6), ("ta.item", "d", 1),
        ("tb.item", "c", 1), ("tb.part", "c", 5), ("tb.part", "c", 6),
        ("tb.part", "d", 5), ("tb.part", "d", 6), ("tb.item", "d", 1),
    ]  # fmt: skip


def test_one_transaction_may_visit_several_tenants(tenants: Tenants) -> None:
    with tenants.engine.begin() as connection:
        for n, schema in enumerate(("ta", "tb", "ta")):
            _set_local_text(connection, schema)
            tenants.insert(connection, n)
    assert sorted(tenants.events()) == [("ta.item", "c", 0), ("ta.item", "c", 2), ("tb.item", "c", 1)]


def test_a_search_path_ends_with_its_transaction_or_savepoint(tenants: Tenants) -> None:
    with tenants.engine.begin() as connection:
        _set_local_text(connection, "ta")
        tenants.insert(connection, 1)
    with tenants.engine.begin() as connection:
        tenants.insert(connection, 2)
        savepoint = connection.begin_nested()
        _set_local_text(connection, "tb")
        tenants.insert(connection, 3)
        savepoint.rollback()
        tenants.insert(connection, 4)
    assert tenants.events() == [("ta.item", "c", 1), ("public.item", "c", 2), ("public.item", "c", 4)]


def test_a_search_path_of_the_session_lasts(tenants: Tenants) -> None:
    with tenants.engine.begin() as connection:
        connection.execute(sa.text("SET search_path TO ta, public"))
    with Session(tenants.engine) as session:
        session.execute(sa.insert(tenants.item).values(id=1))
        session.commit()
    assert tenants.events() == [("ta.item", "c", 1)]


def test_a_listener_of_the_session_may_set_the_search_path(tenants: Tenants) -> None:
    sessions = sessionmaker(tenants.engine)

    def begun(_session: Session, _transaction: Any, connection: Connection) -> None:
        connection.execute(sa.text("SET LOCAL search_path TO tb, public"))

    sa.event.listen(sessions, "after_begin", begun)
    with sessions.begin() as session:
        session.execute(sa.insert(tenants.item).values(id=1))
    assert tenants.events() == [("tb.item", "c", 1)]


def test_a_table_further_along_the_search_path_keeps_its_name(tenants: Tenants) -> None:
    with tenants.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE ta.part; DROP TABLE ta.item")
    with tenants.engine.begin() as connection:
        _set_local_text(connection, "ta")
        tenants.insert(connection, 1)
    assert tenants.events() == [("public.item", "c", 1)]


def test_a_search_path_without_the_outbox_is_refused_before_the_statement(tenants: Tenants) -> None:
    with tenants.engine.connect() as connection:
        connection.execute(sa.text("SET search_path TO ta"))
        with pytest.raises(CaptureError, match=r"ta\.item is captured, but .* does not find the table rowcast_outbox"):
            tenants.insert(connection, 1)
        assert connection.scalar(sa.text("SELECT count(*) FROM ta.item")) == 0


def _by_a_cursor(tenants: Tenants, sql: str) -> None:
    """Let the pool change each connection, where SQLAlchemy's listeners see nothing."""

    def checked_out(driver: Any, *_: Any) -> None:
        with driver.cursor() as cursor:
            cursor.execute(sql)
        driver.commit()

    sa.event.listen(tenants.engine, "checkout", checked_out)


@pytest.mark.parametrize("rows", [1, 40])
def test_a_search_path_that_the_capture_did_not_see_fails_the_commit(tenants: Tenants, rows: int) -> None:
    # Statements are prepared, and the outbox row goes along with COMMIT.
    for n in range(100, 110):
        with tenants.engine.begin() as connection:
            tenants.insert(connection, n)
    tenants.events()
    _by_a_cursor(tenants, "SET search_path TO ta, public")
    message = "looks for tables without a schema in ta, public, and not in 'public'"
    with pytest.raises(CaptureError, match=message), tenants.engine.begin() as connection:
        connection.execute(sa.insert(tenants.item), [{"id": n, "n": n} for n in range(1, rows + 1)])
    with tenants.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM ta.item")) == 0
        assert connection.scalar(sa.text("SELECT count(*) FROM public.item WHERE id < 100")) == 0
    assert tenants.events() == []


def test_an_update_that_writes_its_own_outbox_rows_fails_too(tenants: Tenants) -> None:
    with tenants.engine.begin() as connection:
        for schema in ("public", "ta"):
            fill = sa.text(f"INSERT INTO {schema}.item SELECT n, n FROM generate_series(1, 2000) AS n")
            connection.execute(fill, execution_options={"rowcast": "ignore"})
    update = sa.update(tenants.item).values(n=0)
    for _ in range(3):
        with tenants.engine.begin() as connection:
            connection.execute(update)
    assert {table for table, *_ in tenants.events()} == {"public.item"}
    _by_a_cursor(tenants, "SET search_path TO ta, public")
    with pytest.raises(CaptureError, match="looks for tables without a schema"), tenants.engine.begin() as connection:
        connection.execute(update)
    assert tenants.events() == []


def test_a_connection_without_such_text_is_not_asked(tenants: Tenants) -> None:
    with tenants.engine.begin() as connection:
        tenants.insert(connection, 1)
    with tenants.engine.begin() as connection:
        tenants.insert(connection, 2)
    with tenants.engine.begin() as connection, sent_statements(tenants.engine) as sent:
        connection.execute(sa.text("SELECT set_config('app.tenant', 'x', true)"))
        tenants.insert(connection, 3)
    assert len(sent) == 2


@pytest.mark.parametrize("insert", [True, False])
def test_a_listener_of_the_pool_sets_the_schema_before_the_engine_reads_it(tenants: Tenants, insert: bool) -> None:
    with tenants.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE public.part; DROP TABLE public.item")
    engine = sa.create_engine(tenants.engine.url)

    def connected(driver: Any, _record: Any) -> None:
        with driver.cursor() as cursor:
            cursor.execute("SET search_path TO ta, public")
        driver.commit()

    sa.event.listen(engine, "connect", connected, insert=insert)
    Capture(tenants.metadata, source="s").install(engine)
    if insert:
        with engine.begin() as connection:
            tenants.insert(connection, 1)
        assert tenants.events() == [("ta.item", "c", 1)]
    else:
        message = r"cannot read public\.item: .*must be in the default schema"
        with pytest.raises(CaptureError, match=message), engine.begin() as connection:
            tenants.insert(connection, 1)
    engine.dispose()


# -- MariaDB and MySQL


@pytest.fixture(params=["mariadb", "mysql"])
def databases(request: pytest.FixtureRequest, new_database: NewDatabase) -> Iterator[tuple[Tenants, str]]:
    """Return tenants, and the name of another database with the same tables and without an outbox."""
    tenants = Tenants(new_database(request.param))
    other = f"{tenants.engine.url.database}_ta"
    with tenants.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE `{other}`")
    tenants.create(other)
    yield tenants, other
    with tenants.engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE `{other}`")
    tenants.engine.dispose()


def test_use_of_a_database_without_an_outbox_is_refused_before_the_statement(databases: tuple[Tenants, str]) -> None:
    tenants, other = databases
    with tenants.engine.begin() as connection:
        tenants.insert(connection, 1)
    with tenants.engine.connect() as connection:
        connection.execute(sa.text(f"/* tenant */ USE `{other}`"))
        with pytest.raises(CaptureError, match=rf"{other}\.item is captured, but .* does not find .* rowcast_outbox"):
            tenants.insert(connection, 2)
        connection.execute(sa.text(f"USE `{tenants.engine.url.database}`"))
        tenants.insert(connection, 3)
        connection.commit()
    assert tenants.events() == [(f"{tenants.engine.url.database}.item", "c", n) for n in (1, 3)]


def test_events_name_the_database_that_use_gives(databases: tuple[Tenants, str]) -> None:
    tenants, other = databases
    own = [table for name, table in tenants.metadata.tables.items() if name.startswith("rowcast_")]
    tenants.create(other, own)
    with tenants.engine.begin() as connection:
        connection.execute(sa.text(f"USE `{other}`"))
        tenants.insert(connection, 1)
    # The connection still uses the database, whose outbox has the events.
    assert tenants.events() == [(f"{other}.item", "c", 1)]


@pytest.mark.parametrize("rows", [1, 40])
def test_a_database_that_the_capture_did_not_see_fails_the_commit(databases: tuple[Tenants, str], rows: int) -> None:
    tenants, other = databases
    own = [table for name, table in tenants.metadata.tables.items() if name.startswith("rowcast_")]
    tenants.create(other, own)
    for n in (100, 101, 102):
        with tenants.engine.begin() as connection:
            tenants.insert(connection, n)
    tenants.events()
    _by_a_cursor(tenants, f"USE `{other}`")
    message = f"looks for tables without a schema in {other}, and not in"
    with pytest.raises(CaptureError, match=message), tenants.engine.begin() as connection:
        connection.execute(sa.insert(tenants.item), [{"id": n, "n": n} for n in range(1, rows + 1)])
    with tenants.engine.connect() as connection:
        assert connection.scalar(sa.text(f"SELECT count(*) FROM `{other}`.item")) == 0
    assert tenants.events() == []
