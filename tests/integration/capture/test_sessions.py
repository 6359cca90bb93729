"""The outbox has every change that an application makes through a session, as the database stores it."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from fixtures.databases import NewDatabase
from integration.capture.conftest import NewShop
from rowcast.producer import Capture, CaptureWarning
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import CaptureError, ConfigurationError
from support.shop import Colour, Models, Shop, open_shop, shop_engine

Case = Callable[[Session, Models], None]

CASES: list[Case] = []


def case(function: Case) -> Case:
    CASES.append(function)
    return function


def seed(session: Session, m: Models) -> None:
    session.add_all(
        [
            m.Customer(
                name=f"customer {i}", secret="abc", settings={"n": i}, colour=Colour.RED,
                orders=[m.Order(amount=Decimal("1.5") * n, placed=date(1969, 7, 20)) for n in range(3)],
                notes=[m.Note(body="note", data=bytes(range(80)))],
            )
            for i in range(4)
        ]
        + [m.Reading(sensor="a", at=n, value=0.1 * n) for n in range(4)]
        + [m.Tag(name="x"), m.Tag(name="y"), m.Token()]
    )  # fmt: skip
    session.flush()
    boss = m.Person(name="boss")
    session.add(boss)
    session.flush()
    session.add(m.Engineer(name="e", language="python", boss_id=boss.id))
    session.commit()


@case
def insert_with_server_defaults(s: Session, m: Models) -> None:
    s.add(m.Customer(name="new"))


@case
def update_with_sql_expression(s: Session, m: Models) -> None:
    customer = s.get_one(m.Customer, 1)
    customer.visits = m.Customer.visits + 1


@case
def dirty_without_net_change(s: Session, m: Models) -> None:
    customer = s.get_one(m.Customer, 1)
    customer.name = customer.name


@case
def mutable_json_in_place(s: Session, m: Models) -> None:
    customer = s.get_one(m.Customer, 1)
    assert customer.settings is not None
    customer.settings["deep"] = [1, None, "é😀"]


@case
def json_null_and_sql_null(s: Session, m: Models) -> None:
    s.add(m.Customer(name="json null", settings=None))
    s.flush()
    s.execute(sa.insert(m.Customer).values(name="sql null", settings=sa.null()))


@case
def enum_and_type_decorator(s: Session, m: Models) -> None:
    s.add(m.Customer(name='it\'s \\ "q" \t\n', secret="stored reversed", colour=Colour.BLUE))


@case
def delete_orphan(s: Session, m: Models) -> None:
    customer = s.get_one(m.Customer, 1)
    customer.orders.pop()


@case
def delete_with_orm_cascade(s: Session, m: Models) -> None:
    s.delete(s.get_one(m.Customer, 1))


@case
def delete_where_with_database_cascade(s: Session, m: Models) -> None:
    s.execute(sa.delete(m.Order).where(m.Order.customer_id == 2))
    s.execute(sa.delete(m.Customer).where(m.Customer.id == 2))


@case
def secondary_table(s: Session, m: Models) -> None:
    order = s.get_one(m.Order, 1)
    order.tags = list(s.scalars(sa.select(m.Tag)))
    s.flush()
    order.tags.pop()


@case
def joined_inheritance(s: Session, m: Models) -> None:
    s.add(m.Engineer(name="new", language="sql"))
    engineer = s.scalars(sa.select(m.Engineer)).first()
    assert engineer is not None
    engineer.language = "rust"
    engineer.name = "renamed"


@case
def bulk_insert_of_joined_inheritance(s: Session, m: Models) -> None:
    s.execute(
        sa.insert(m.Engineer), [{"id": 100 + i, "name": "bulk", "language": "c", "kind": "engineer"} for i in range(3)]
    )


@case
def primary_key_changes(s: Session, m: Models) -> None:
    s.get_one(m.Reading, ("a", 1)).at = 77


@case
def primary_keys_shift_by_sql(s: Session, m: Models) -> None:
    s.execute(sa.update(m.Reading).where(m.Reading.at > 1).values(at=m.Reading.at + 1000))


@case
def delete_then_insert_of_the_same_key(s: Session, m: Models) -> None:
    s.delete(s.get_one(m.Reading, ("a", 1)))
    s.flush()
    s.add(m.Reading(sensor="a", at=1, value=9.5))


@case
def insert_then_delete(s: Session, m: Models) -> None:
    reading = m.Reading(sensor="gone", at=1)
    s.add(reading)
    s.flush()
    s.delete(reading)


@case
def several_statements_on_one_row(s: Session, m: Models) -> None:
    for i in range(5):
        s.get_one(m.Customer, 1).name = f"name {i}"
        s.flush()


@case
def bulk_save_objects(s: Session, m: Models) -> None:
    s.bulk_save_objects([m.Customer(name=f"bulk {i}") for i in range(3)])


@case
def bulk_mappings(s: Session, m: Models) -> None:
    s.bulk_insert_mappings(sa.inspect(m.Customer), [{"name": "a"}, {"name": "b"}])
    s.bulk_update_mappings(sa.inspect(m.Customer), [{"id": 1, "name": "c"}, {"id": 2, "name": "d"}])


@case
def insert_many_without_keys(s: Session, m: Models) -> None:
    s.execute(sa.insert(m.Customer), [{"name": f"many {i}"} for i in range(40)])


@case
def insert_many_with_python_default_keys(s: Session, m: Models) -> None:
    s.execute(sa.insert(m.Token), [{"used": True}, {"used": False}])


@case
def insert_values_list(s: Session, m: Models) -> None:
    s.execute(sa.insert(m.Customer).values([{"name": "v1"}, {"name": "v2"}]))


@case
def insert_from_select(s: Session, m: Models) -> None:
    if not s.get_bind().dialect.insert_returning:
        pytest.skip("MySQL returns no keys: see test_a_strict_capture_refuses_an_insert_from_a_select_on_mysql")
    s.execute(sa.insert(m.Tag).from_select(["name"], sa.select(sa.literal("copy ") + m.Tag.name)))


@case
def update_where(s: Session, m: Models) -> None:
    s.execute(sa.update(m.Order).where(m.Order.amount >= 1).values(status="paid"))


@case
def update_where_fetching(s: Session, m: Models) -> None:
    s.execute(
        sa.update(m.Order).where(m.Order.id < 4).values(status="paid"),
        execution_options={"synchronize_session": "fetch"},
    )


@case
def update_by_key_list(s: Session, m: Models) -> None:
    s.execute(sa.update(m.Order), [{"id": 1, "status": "a"}, {"id": 2, "status": "b"}])


@case
def update_with_bind_parameters(s: Session, m: Models) -> None:
    table = m.Order.__table__
    s.connection().execute(
        sa.update(table).where(table.c.id == sa.bindparam("which")).values(status=sa.bindparam("to")),
        [{"which": 1, "to": "x"}, {"which": 2, "to": "y"}, {"which": 999, "to": "z"}],
    )


@case
def delete_where(s: Session, m: Models) -> None:
    s.execute(sa.delete(m.Order).where(m.Order.amount == 0))


@case
def query_update_and_delete(s: Session, m: Models) -> None:
    s.query(m.Order).filter(m.Order.id == 1).update({"status": "q"})
    s.query(m.Order).filter(m.Order.id == 2).delete()


@case
def merge(s: Session, m: Models) -> None:
    s.merge(m.Reading(sensor="a", at=1, value=5.0))
    s.merge(m.Reading(sensor="b", at=1, value=6.0))


@case
def upsert(s: Session, m: Models) -> None:
    values = {"sensor": "a", "at": 1, "value": 42.5}
    inserts: dict[str, Callable[[], Any]] = {
        "postgresql": lambda: (
            postgresql.insert(m.Reading)
            .values(values)
            .on_conflict_do_update(index_elements=["sensor", "at"], set_={"value": 43.5})
        ),
        "sqlite": lambda: (
            sqlite.insert(m.Reading)
            .values(values)
            .on_conflict_do_update(index_elements=["sensor", "at"], set_={"value": 43.5})
        ),
        "mysql": lambda: mysql.insert(m.Reading).values(values).on_duplicate_key_update(value=43.5),
    }
    s.execute(inserts[s.get_bind().dialect.name]())


@case
def rolled_back_savepoint(s: Session, m: Models) -> None:
    s.get_one(m.Customer, 1).name = "outer"
    s.flush()
    nested = s.begin_nested()
    s.get_one(m.Customer, 2).name = "inner"
    s.add(m.Customer(name="inner"))
    s.flush()
    nested.rollback()


@case
def released_savepoint(s: Session, m: Models) -> None:
    with s.begin_nested():
        s.get_one(m.Customer, 2).name = "inner"
        with s.begin_nested():
            s.add(m.Customer(name="innermost"))


@case
def large_transaction(s: Session, m: Models) -> None:
    s.add_all([m.Reading(sensor="large", at=i, value=i / 7) for i in range(4500)])


@case
def temporal_values(s: Session, m: Models) -> None:
    s.add(m.Order(customer_id=1, amount=Decimal("99999999.99"), created=datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)))


@pytest.mark.parametrize("work", CASES, ids=lambda work: work.__name__)
def test_capture_of(work: Case, warm_shop: Shop) -> None:
    shop = warm_shop
    with shop.sessions() as session:
        seed(session, shop.models)
        shop.take()
        assert shop.mirror == shop.rows()
        work(session, shop.models)
        session.commit()
    shop.take()
    assert shop.mirror == shop.rows()


def test_a_capture_writes_one_outbox_row_for_a_transaction(shop: Shop) -> None:
    with shop.sessions() as session:
        seed(session, shop.models)
    with shop.engine.connect() as connection:
        rows = connection.execute(sa.select(shop.outbox.c.tx, shop.outbox.c.complete)).all()
    assert len(rows) == 1
    assert rows[0].complete is True


def test_a_capture_names_what_each_change_was(shop: Shop) -> None:
    m = shop.models
    with shop.sessions() as session:
        seed(session, m)
        shop.take()
        session.get_one(m.Tag, 1).name = "changed"
        session.add(m.Tag(id=50, name="new"))
        session.delete(session.get_one(m.Tag, 2))
        session.commit()
    changes = {(c["t"].split(".")[-1], c["k"]["id"]): (c["op"], "a" in c) for c in shop.take()}
    assert changes == {("tags", 1): ("u", True), ("tags", 50): ("c", True), ("tags", 2): ("d", False)}


@pytest.mark.parametrize("end", ["rollback", "close", "error"])
def test_a_capture_of_a_transaction_that_is_not_committed_leaves_nothing(shop: Shop, end: str) -> None:
    with shop.sessions() as session:
        session.add(shop.models.Tag(name="x"))
        session.flush()
        if end == "rollback":
            session.rollback()
        elif end == "error":
            session.add(shop.models.Tag(name="x"))
            with pytest.raises(sa.exc.IntegrityError):
                session.commit()
    assert shop.take() == []
    with shop.sessions() as session:
        session.add(shop.models.Tag(name="y"))
        session.commit()
    assert [c["a"]["name"] for c in shop.take()] == ["y"]


def test_a_capture_of_a_rolled_back_savepoint_reads_no_image_of_it(shop: Shop) -> None:
    """The row's lock is released, so that an image could be older than the image of a later transaction."""
    m = shop.models
    with shop.sessions() as session:
        seed(session, m)
        shop.take()
        nested = session.begin_nested()
        session.get_one(m.Customer, 2).name = "inner"
        session.flush()
        nested.rollback()
        session.add(m.Tag(name="outer"))
        session.commit()
    assert [c["t"].split(".")[-1] for c in shop.take()] == ["tags"]


def test_a_capture_reports_database_cascades(shop: Shop) -> None:
    m = shop.models
    with shop.sessions() as session:
        seed(session, m)
        shop.take()
        session.execute(sa.delete(m.Order))
        session.execute(sa.delete(m.Customer).where(m.Customer.id <= 2))
        session.commit()
    gone = [c for c in shop.take() if c["t"].endswith("notes")]
    assert [c["op"] for c in gone] == ["d", "d"]
    assert shop.mirror == shop.rows()


def test_a_capture_leaves_the_applications_results_alone(shop: Shop) -> None:
    m = shop.models
    with shop.sessions() as session:
        if session.get_bind().dialect.insert_returning:
            inserted = session.scalars(
                sa.insert(m.Customer).returning(m.Customer), [{"name": "a"}, {"name": "b"}]
            ).all()
            assert [c.name for c in inserted] == ["a", "b"]
            assert session.execute(sa.insert(m.Tag).values(name="t").returning(m.Tag.id)).scalar_one() == 1
        else:
            session.add_all([m.Customer(name="a"), m.Customer(name="b")])
            session.flush()
        loaded = session.scalars(sa.select(m.Customer).order_by(m.Customer.id)).all()
        changed = session.execute(sa.update(m.Customer).where(m.Customer.name == "a").values(name="c"))
        assert isinstance(changed, sa.CursorResult)
        assert changed.rowcount == 1
        assert loaded[0].name == "c"
        deleted = session.execute(sa.delete(m.Customer).where(m.Customer.name == "b"))
        assert isinstance(deleted, sa.CursorResult)
        assert deleted.rowcount == 1
        session.commit()
    shop.take()
    assert shop.mirror == shop.rows()


def test_a_capture_warns_of_sql_text_by_table_and_statement(shop: Shop) -> None:
    with shop.sessions() as session:
        with pytest.warns(CaptureWarning, match=r"SQL text changes \w+\.tags.*UPDATE tags SET name"):
            session.execute(sa.text("UPDATE tags SET name = 'x'"))
        with pytest.warns(CaptureWarning, match=r"SQL text changes \w+\.tags"):
            session.connection().exec_driver_sql("DELETE FROM tags")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            session.execute(sa.text("SELECT * FROM tags"))


def test_a_capture_warns_of_dml_inside_a_common_table_expression_that_does_not_return_its_keys(
    borrow_shop: NewShop,
) -> None:
    shop = borrow_shop("postgresql")
    with shop.sessions() as session:
        table = shop.models.Tag.__table__
        inner = sa.insert(table).values(name="x").returning(table.c.name).cte("inserted")
        with pytest.warns(CaptureWarning, match="common table expression that does not return the primary key"):
            session.connection().execute(sa.select(inner.c.name))


def test_a_capture_refuses_to_execute_dml_twice(borrow_shop: NewShop) -> None:
    """The children of deleted rows must be read before the DELETE, and the condition would execute the inner DML."""
    shop = borrow_shop("postgresql")
    with shop.sessions() as session:
        tags, customers = shop.models.Tag.__table__, shop.models.Customer.__table__
        inner = sa.insert(tags).values(name="x").returning(tags.c.id).cte("inserted")
        with pytest.raises(CaptureError, match=r"public\.customers has DML in a common table expression"):
            session.connection().execute(sa.delete(customers).where(customers.c.id.in_(sa.select(inner.c.id))))
        assert session.scalars(sa.select(tags.c.id)).all() == []


def test_a_capture_refuses_autocommit(shop: Shop) -> None:
    autocommit = shop.engine.execution_options(isolation_level="AUTOCOMMIT")
    refusal = r"AUTOCOMMIT.*rowcast triggers install \w+\.tags"
    with autocommit.connect() as connection, pytest.raises(CaptureError, match=refusal):
        connection.execute(shop.models.Tag.__table__.insert().values(name="x"))


def test_a_capture_names_tables_without_a_primary_key() -> None:
    metadata = sa.MetaData()
    sa.Table("keyless", metadata, sa.Column("a", sa.Integer))
    sa.Table("left_out", metadata, sa.Column("a", sa.Integer), info={"rowcast": False})
    capture = Capture(metadata, source="x")
    with pytest.raises(ConfigurationError, match="'keyless': no primary key"):
        capture.install(sessionmaker())


def test_a_capture_says_so_when_the_outbox_tables_are_missing(primary_url: str) -> None:
    engine = sa.create_engine(primary_url)
    models = Models()
    capture = Capture(models.metadata, source="x")
    sessions = sessionmaker(engine)
    capture.install(sessions)
    models.metadata.create_all(engine, tables=[models.Tag.__table__])
    with sessions() as session:
        session.add(models.Tag(name="x"))
        with pytest.raises(ConfigurationError, match="rowcast_shape does not exist"):
            session.commit()
    with sessions() as session:
        assert session.scalars(sa.select(models.Tag)).all() == []
    assert {f.table for f in capture.check(engine)} >= {"rowcast_outbox", "rowcast_shape", "customers"}
    engine.dispose()


@pytest.fixture
def own_shop(primary_url: str) -> Iterator[Shop]:
    """Open a shop in a database that the test may change."""
    with open_shop(primary_url) as shop:
        yield shop


def test_a_capture_says_so_when_another_version_has_made_the_outbox(own_shop: Shop) -> None:
    shop = own_shop
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE rowcast_outbox DROP COLUMN context")
    again = Capture(shop.models.metadata, source="x")
    (finding,) = again.check(shop.engine)
    assert finding.table == "rowcast_outbox"
    assert "has no column context" in finding.message
    engine = sa.create_engine(shop.engine.url)
    again.install(engine)
    insert = shop.models.Tag.__table__.insert().values(name="x")
    with pytest.raises(ConfigurationError, match=r"rowcast_outbox has no column context.*migrate"), engine.begin() as c:
        c.execute(insert)
    with engine.connect() as connection:
        assert connection.execute(sa.select(shop.models.Tag.__table__)).all() == []
    engine.dispose()


def test_a_capture_reports_nothing_where_all_is_well(shop: Shop) -> None:
    assert shop.capture.check(shop.engine) == []


def test_a_capture_records_which_tables_had_rows_before(shop: Shop) -> None:
    models = shop.models
    with shop.engine.begin() as connection:
        by_others = {"rowcast": "ignore"}
        connection.execute(sa.insert(models.Tag).values(name="before"), execution_options=by_others)
        connection.execute(sa.insert(models.Reading).values(sensor="s", at=1), execution_options=by_others)
    with shop.sessions() as session:
        session.add(models.Tag(name="after"))
        session.get_one(models.Reading, ("s", 1)).value = 1.0
        session.commit()
    shape = models.metadata.tables["rowcast_shape"]
    with shop.engine.connect() as connection:
        before = connection.scalars(sa.select(shape.c.table_name).where(shape.c.rows_before)).all()
    assert [name.split(".")[-1] for name in before] == ["tags"]


def test_a_capture_calls_the_callbacks_after_the_commit(shop: Shop) -> None:
    committed = threading.Event()
    seen: list[int] = []

    def wake() -> None:
        with shop.engine.connect() as connection:
            seen.append(connection.execute(sa.select(sa.func.count()).select_from(shop.outbox)).scalar_one())
        committed.set()

    stop = shop.capture.on_commit(wake)
    with shop.sessions() as session:
        session.add(shop.models.Tag(name="x"))
        session.commit()
    assert committed.is_set()
    assert seen[-1] == 1
    stop()
    with shop.engine.begin() as connection:
        connection.execute(shop.models.Tag.__table__.insert().values(name="y"))
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["sessionmaker", "class", "scoped", "engine", "unbound", "connection"])
def test_a_capture_installs_on(borrow_shop: NewShop, kind: str) -> None:
    shop = borrow_shop("sqlite")
    shop.capture.uninstall(shop.sessions)
    engine, models = shop.engine, shop.models
    capture = Capture(models.metadata, source="x")

    class OwnSession(Session):
        pass

    factory: Any = sessionmaker() if kind == "unbound" else sessionmaker(engine, class_=OwnSession)
    target = {"class": OwnSession, "scoped": scoped_session(factory), "engine": engine}.get(kind, factory)
    capture.install(target)
    capture.install(target)

    def write() -> int:
        if kind == "connection":
            with engine.connect() as connection, factory(bind=connection) as session:
                session.add(models.Tag(name=f"n{written}"))
                session.commit()
                connection.commit()
        else:
            with factory(bind=engine) as session:
                session.add(models.Tag(name=f"n{written}"))
                session.commit()
        with engine.connect() as connection:
            count = sa.select(sa.func.count()).select_from(models.metadata.tables["rowcast_outbox"])
            return connection.execute(count).scalar_one()

    written = 0
    assert write() == 1
    written = 1
    assert write() == 2
    capture.uninstall(target)
    written = 2
    assert write() == 2


def test_a_capture_is_installed_while_other_threads_use_the_engine(borrow_shop: NewShop) -> None:
    """Each commit of the other threads succeeds, while captures come and go."""
    shop = borrow_shop("postgresql")
    others = [Capture(sa.MetaData(), source="other") for _ in range(2)]
    done = threading.Event()

    def write(start: int) -> int:
        for number in itertools.count(start):
            with shop.engine.begin() as connection:
                connection.execute(sa.insert(shop.models.Tag), {"id": number, "name": f"n{number}"})
            if done.is_set():
                return number - start + 1
        raise AssertionError

    with ThreadPoolExecutor() as threads:
        written = [threads.submit(write, start) for start in (0, 100_000)]
        try:
            for _ in range(300):
                for other in others:
                    other.install(shop.engine)
                for other in others:
                    other.uninstall(shop.engine)
        finally:
            done.set()
        count = sum(future.result() for future in written)
    assert len(shop.take()) == count
    assert shop.mirror == shop.rows()


@pytest.mark.parametrize(
    ("listens", "name"),
    [
        ("sessionmaker", "after_begin"),
        ("Session", "after_begin"),
        ("session", "after_begin"),
        ("Engine", "engine_connect"),
    ],
)
def test_a_capture_is_installed_while_listeners_of_a_class_are_called(
    new_database: NewDatabase, listens: str, name: str
) -> None:
    """A listener of the application installs the captures, as another thread may do at the same moment."""
    engine, models = shop_engine(new_database("sqlite")), Models()
    models.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    session = sessions()
    targets: dict[str, Any] = {"sessionmaker": sessions, "Session": Session, "session": session, "Engine": Engine}
    installed_on = targets["Engine" if listens == "Engine" else "sessionmaker"]
    others: list[Capture] = []

    def install(*_: Any) -> None:
        others.append(Capture(sa.MetaData(), source="other"))
        others[-1].install(installed_on)

    sa.event.listen(targets[listens], name, install)
    for tag in ("a", "b"):
        session.add(models.Tag(name=tag))
        session.commit()
    sa.event.remove(targets[listens], name, install)
    for other in others:
        other.uninstall(installed_on)
    session.close()
    engine.dispose()
    assert len(others) == 2


def test_a_capture_can_be_flushed_inside_an_outer_transaction(shop: Shop) -> None:
    """Join a session to an outer transaction that is rolled back, as test suites do."""
    with shop.engine.connect() as connection:
        outer = connection.begin()
        if shop.engine.dialect.name == "sqlite":
            # sqlite3 begins no transaction before a savepoint, and would commit at its release.
            connection.exec_driver_sql("BEGIN")
        with shop.sessions(bind=connection, join_transaction_mode="create_savepoint") as session:
            session.add(shop.models.Tag(name="x"))
            session.commit()
        shop.capture.flush(connection)
        count = sa.select(sa.func.count()).select_from(shop.outbox)
        assert connection.execute(count).scalar_one() == 1
        outer.rollback()
    assert shop.take() == []


def test_a_capture_drains_a_prepared_transaction(borrow_shop: NewShop) -> None:
    shop = borrow_shop("mariadb")
    with shop.engine.connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(shop.models.Tag.__table__.insert().values(name="x"))
        transaction.prepare()
        transaction.commit()
    assert [c["a"]["name"] for c in shop.take()] == ["x"]


def test_a_capture_keeps_concurrent_transactions_apart(shop: Shop) -> None:
    if shop.engine.dialect.name == "sqlite":
        threads, each = 2, 10
    else:
        threads, each = 8, 25
    errors: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for i in range(each):
                with shop.sessions() as session:
                    session.add(shop.models.Reading(sensor=f"t{n}", at=i, value=float(i)))
                    session.flush()
                    if i % 3 == 0:
                        session.rollback()
                    else:
                        session.commit()
        except BaseException as error:
            errors.append(error)
            raise

    running = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert errors == []
    shop.take()
    assert shop.mirror == shop.rows()


def test_a_capture_of_a_lambda_statement(shop: Shop) -> None:
    m = shop.models
    with shop.sessions() as session:
        seed(session, m)
        table, name = m.Tag.__table__, "by lambda"
        session.connection().execute(sa.lambda_stmt(lambda: sa.update(table).values(name=table.c.name + name)))
        session.commit()
    shop.take()
    assert shop.mirror == shop.rows()


@pytest.mark.parametrize("met", [False, True], ids=["for the first time", "met before"])
def test_a_capture_of_rows_that_a_failed_statement_left_behind(shop: Shop, met: bool) -> None:
    """Some engines keep the rows before the failed row if the application continues."""
    m = shop.models
    table = m.Reading.__table__
    with shop.sessions() as session:
        seed(session, m)
        rows = [{"sensor": "a", "at": at, "value": 1.0} for at in (50, 51, 1, 52)]
        insert = sa.insert(table)
        if met:
            session.connection().execute(insert, {"sensor": "b", "at": 1, "value": 1.0})
            session.connection().execute(insert, {"sensor": "b", "at": 2, "value": 1.0})
        with pytest.raises(sa.exc.IntegrityError):
            session.connection().execute(insert, rows)
        if shop.engine.dialect.name == "postgresql":
            session.rollback()
        session.add(m.Tag(name="goes on"))
        session.commit()
    shop.take()
    assert shop.mirror == shop.rows()


def test_a_capture_reads_what_is_stored_rather_than_the_transactions_snapshot(borrow_shop: NewShop) -> None:
    """On MariaDB an UPDATE to the present value makes no new version of the row. A SELECT without a lock would still
    read the older snapshot."""
    shop = borrow_shop("mariadb")
    m = shop.models
    with shop.sessions() as session:
        seed(session, m)
        shop.take()
        session.scalars(sa.select(m.Tag)).all()
        with shop.engine.begin() as other:
            other.execute(sa.update(m.Tag.__table__).where(m.Tag.id == 1).values(name="theirs"))
        session.execute(sa.update(m.Tag).where(m.Tag.id == 1).values(name="theirs"))
        session.commit()
    assert [c["a"]["name"] for c in shop.take()] == ["theirs", "theirs"]


def test_a_capture_refuses_to_commit_keys_that_it_did_not_foresee(borrow_shop: NewShop) -> None:
    """MariaDB computes ``at`` from the new ``sensor``. The error comes after the statement, and may be ignored."""
    shop = borrow_shop("mariadb")
    reading = shop.models.Reading
    with shop.sessions() as session:
        session.add(reading(sensor="a", at=1))
        session.commit()
    shop.take()
    columns = reading.__table__.c
    rekey = sa.update(reading.__table__).values(
        {"sensor": sa.func.concat(columns.sensor, "xyz"), "at": sa.func.char_length(columns.sensor)}
    )
    with shop.sessions() as session:
        nested = session.begin_nested()
        with pytest.raises(CaptureError, match="made other primary keys than its expressions gave"):
            session.execute(rekey)
        nested.rollback()
        session.add(reading(sensor="b", at=1))
        session.commit()
        assert len(shop.take()) == 1
        with pytest.raises(CaptureError):
            session.execute(rekey)
        with pytest.raises(CaptureError, match="made other primary keys"):
            session.commit()
    shop.take()
    assert shop.mirror == shop.rows()


def test_a_capture_of_decimal_keys_that_the_database_returns(primary_url: str) -> None:
    """The processor of a driver's values depends on the type that the driver reports."""
    metadata = sa.MetaData()
    columns = sa.Column("amount", sa.Numeric(9, 3), primary_key=True, autoincrement=False), sa.Column("note", sa.Text)
    prices = sa.Table("prices", metadata, *columns)
    engine = open_engine(primary_url, "primary", pooled=False)
    capture = Capture(metadata, source="shop")
    capture.install(engine)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(prices), [{"amount": Decimal("1.125"), "note": "a"}, {"amount": Decimal(2), "note": None}]
        )
    with engine.begin() as connection:
        connection.execute(sa.update(prices).where(prices.c.note == "a").values(note="b"))
        connection.execute(sa.delete(prices).where(prices.c.note.is_(None)))
    with engine.connect() as connection:
        written = connection.execute(sa.text("SELECT changes FROM rowcast_outbox ORDER BY id")).scalars().all()
    capture.uninstall(engine)
    engine.dispose()
    lines = [orjson.loads(line) for line in written[-1].splitlines()]
    assert sorted((line["op"], Decimal(line["k"]["amount"])) for line in lines) == [
        ("d", Decimal(2)),
        ("u", Decimal("1.125")),
    ]
