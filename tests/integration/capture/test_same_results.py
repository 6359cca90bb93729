"""Random programs see the same with and without the capture, and the outbox has all of their changes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, seed, settings
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from fixtures.databases import ENGINES, NewDatabase
from support.lent_shops import empty_tables
from support.same_results.models import Base, Engineer
from support.same_results.programs import BEGUN, PROGRAMS, Transaction, refused, restart_numbers, run
from support.sent_statements import sent_statements
from support.shop import Shop, shop_engine


class Pair:
    """Hold two equal databases: one with a capture, one without."""

    def __init__(self, captured_url: str, plain_url: str) -> None:
        models: Any = SimpleNamespace(metadata=Base.metadata)
        self.shop = Shop(shop_engine(captured_url), models, strict="raise")
        self.plain = shop_engine(plain_url)
        Base.metadata.create_all(self.plain)
        for engine in (self.shop.engine, self.plain):
            BEGUN.create(engine)
        # The drain takes the tables for known from the second transaction on.
        self.empty()

    def empty(self) -> None:
        kept = Base.metadata.tables["rowcast_shape"]
        for engine in (self.shop.engine, self.plain):
            empty_tables(engine, [table for table in Base.metadata.sorted_tables if table is not kept])
            empty_tables(engine, [BEGUN])
            restart_numbers(engine)
        self.shop.mirror.clear()

    def stored(self, engine: sa.Engine) -> Any:
        with engine.connect() as connection:
            return {
                table.name: connection.execute(sa.select(table).order_by(*table.primary_key)).all()
                for table in Base.metadata.sorted_tables
                if not table.name.startswith("rowcast_")
            }

    def close(self) -> None:
        self.shop.capture.uninstall(self.shop.sessions)
        self.shop.engine.dispose()
        self.plain.dispose()


@pytest.fixture(scope="module", params=ENGINES)
def pair(request: pytest.FixtureRequest, new_lasting_database: NewDatabase) -> Iterator[Pair]:
    pair = Pair(new_lasting_database(request.param), new_lasting_database(request.param))
    yield pair
    pair.close()


def assert_same(pair: Pair, program: list[Transaction]) -> None:
    pair.empty()
    with_capture = run(program, pair.shop.engine)
    without_capture = run(program, pair.plain, without=refused(with_capture, program))
    for one, other in zip(with_capture, without_capture, strict=True):
        assert one == other
    assert pair.stored(pair.shop.engine) == pair.stored(pair.plain)
    pair.shop.take()
    assert pair.shop.mirror == pair.shop.rows()


@pytest.mark.campaign
def test_an_application_sees_the_same_with_the_capture(pair: Pair, campaign: bool) -> None:
    @seed(15)
    @settings(max_examples=10_000 if campaign else 25, suppress_health_check=list(HealthCheck))
    @given(program=PROGRAMS)
    def sees_the_same(program: list[Transaction]) -> None:
        assert_same(pair, program)

    sees_the_same()


ROWS = [{"name": "a"}, {"name": "b"}, {"name": "a"}, {"name": "c"}]


@pytest.mark.parametrize("many", [ROWS, [{"id": n, **row} for n, row in enumerate(ROWS, 1)]], ids=["drawn", "given"])
def test_the_rows_before_a_failure_stay_on_sqlite(new_database: NewDatabase, many: list[dict[str, Any]]) -> None:
    """SQLite's driver executes a statement for one parameter set after the other."""
    pair = Pair(new_database("sqlite"), new_database("sqlite"))
    for engine in (pair.shop.engine, pair.plain):
        with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError):
            connection.execute(sa.insert(Base.metadata.tables["accounts"]), many)
    rows = pair.stored(pair.shop.engine)
    assert [row.name for row in rows["accounts"]] == ["a", "b"]
    assert rows == pair.stored(pair.plain)
    pair.shop.take()
    assert pair.shop.mirror == pair.shop.rows()
    pair.close()


def test_an_orm_update_of_a_subclass_reads_no_product_of_its_tables(new_database: NewDatabase) -> None:
    """The ORM emits an UPDATE for each table of the class, and each names the columns of all tables."""
    pair = Pair(new_database("sqlite"), new_database("sqlite"))
    with Session(pair.shop.engine) as session:
        session.add_all([Engineer(id=1), Engineer(id=2)])
        session.commit()
        update = sa.update(Engineer).values(name=sa.func.lower("A"), language=sa.func.lower("B"))
        with sent_statements(pair.shop.engine) as sent:
            session.execute(update, [{"id": 1}])
        session.commit()
    assert [sql.split()[:2] for sql in sent] == [["UPDATE", "people"], ["UPDATE", "engineers"]]
    pair.shop.take()
    assert pair.shop.mirror == pair.shop.rows()
    pair.close()


@pytest.mark.parametrize("engine", ["mariadb", "sqlite"])
def test_an_update_with_many_parameter_sets_that_finds_no_row(new_database: NewDatabase, engine: str) -> None:
    url = new_database(engine)
    shop = Shop(shop_engine(url), SimpleNamespace(metadata=Base.metadata), strict="raise")  # type: ignore[arg-type]
    accounts = Base.metadata.tables["accounts"]
    update = sa.update(accounts).where(accounts.c.score == sa.bindparam("old")).values(score=1)
    with shop.engine.begin() as connection:
        assert connection.execute(update, [{"old": 7}, {"old": 8}]).rowcount == 0
    shop.capture.uninstall(shop.sessions)
    shop.engine.dispose()


def test_an_upsert_with_many_parameter_sets_may_change_a_row_twice(new_database: NewDatabase) -> None:
    pair = Pair(new_database("postgresql"), new_database("postgresql"))
    upsert = postgresql.insert(Base.metadata.tables["accounts"])
    upsert = upsert.on_conflict_do_update(index_elements=["name"], set_={"score": upsert.excluded.score})
    for engine in (pair.shop.engine, pair.plain):
        with engine.begin() as connection:
            connection.execute(
                upsert, [{"name": "a", "score": 1}, {"name": "b", "score": 2}, {"name": "a", "score": 3}]
            )
    assert pair.stored(pair.shop.engine) == pair.stored(pair.plain)
    pair.shop.take()
    assert pair.shop.mirror == pair.shop.rows()
    pair.close()


def test_a_cursor_that_streams_rows_counts_the_deleted_rows_on_mariadb(new_database: NewDatabase) -> None:
    pair = Pair(new_database("mariadb"), new_database("mariadb"))
    lines = Base.metadata.tables["positions"]
    for engine in (pair.shop.engine, pair.plain):
        with engine.connect().execution_options(stream_results=True) as connection:
            connection.execute(sa.insert(lines), [{"a": n, "b": "x", "amount": n} for n in range(4)])
            assert connection.execute(sa.delete(lines).where(lines.c.amount > 1)).rowcount == 2
            connection.commit()
    assert pair.stored(pair.shop.engine) == pair.stored(pair.plain)
    pair.close()
