"""The outbox has the rows that a statement changed, if the statement itself chooses them.

Queues, random numbers, LIMIT and values computed in Python choose other rows each time. Therefore the keys come from
the statement's RETURNING, or the statement is restricted to rows that were read and locked.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, with_loader_criteria
from sqlalchemy.sql.expression import ClauseElement

from integration.capture.conftest import NewShop
from rowcast.producer import CaptureError, CaptureWarning
from support.shop import Shop

SERVERS = ["postgresql", "mariadb", "mysql"]
# MariaDB has RETURNING for DELETE only.
RETURNING = [(engine, kind) for engine in ("postgresql", "sqlite") for kind in ("update", "delete")]
RETURNING.append(("mariadb", "delete"))
Build = Callable[[sa.Table], Any]


@pytest.fixture
def filled(shop: Shop) -> Shop:
    return fill(shop)


def fill(shop: Shop) -> Shop:
    m = shop.models
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(m.Tag.__table__), [{"name": f"tag {n}"} for n in range(1, 31)])
        connection.execute(
            sa.insert(m.Reading.__table__), [{"sensor": s, "at": n, "value": n / 2} for s in "ab" for n in range(1, 4)]
        )
    shop.take()
    return shop


def keys_of(shop: Shop) -> list[Any]:
    """Return the keys of the changes in the outbox, and check that the outbox leads to the stored rows."""
    found = sorted(change["k"]["id"] for change in shop.take())
    assert shop.mirror == shop.rows()
    return found


def chance(engine: sa.Engine) -> Any:
    return sa.func.rand() if engine.dialect.name == "mysql" else sa.func.random()


# -- chosen by chance, or differently at each execution


@pytest.mark.parametrize("deletes", [False, True], ids=["update", "delete"])
def test_rows_drawn_by_chance(filled: Shop, deletes: bool) -> None:
    tag = filled.models.Tag.__table__
    drawn = sa.select(tag.c.id).order_by(chance(filled.engine)).limit(3).subquery("drawn")
    statement: Any = sa.delete(tag) if deletes else sa.update(tag).values(name=sa.literal("x").concat(tag.c.name))
    with filled.engine.begin() as connection:
        changed = connection.execute(statement.where(tag.c.id.in_(sa.select(drawn.c.id)))).rowcount
    assert len(keys_of(filled)) == changed == 3


def test_a_value_that_python_computes_at_each_execution(filled: Shop) -> None:
    tag = filled.models.Tag.__table__
    numbers = itertools.count(1)
    which = sa.bindparam(None, callable_=lambda: next(numbers), type_=sa.Integer)
    with filled.engine.begin() as connection:
        assert connection.execute(sa.update(tag).where(tag.c.id == which).values(name="x")).rowcount == 1
        assert connection.execute(sa.delete(tag).where(tag.c.id.in_([which, which + 0]))).rowcount >= 1
    keys_of(filled)


def test_a_key_that_python_computes_at_each_execution(filled: Shop) -> None:
    tag = filled.models.Tag.__table__
    numbers = itertools.count(101)
    new = sa.bindparam(None, callable_=lambda: next(numbers), type_=sa.Integer)
    with filled.engine.begin() as connection:
        connection.execute(sa.update(tag).where(tag.c.id == 7).values(id=new))
        connection.execute(sa.update(tag).where(tag.c.name == "tag 8").values(id=new))
    assert len(keys_of(filled)) == 4


@pytest.mark.parametrize("engine", SERVERS)
def test_new_keys_that_the_database_makes_up(borrow_shop: NewShop, engine: str) -> None:
    shop = borrow_shop(engine)
    token = shop.models.Token
    with shop.sessions() as session:
        session.add_all([token(), token()])
        session.commit()
    shop.take()
    made_up: Any = sa.func.gen_random_uuid() if engine == "postgresql" else sa.func.replace(sa.func.uuid(), "-", "")
    with shop.engine.begin() as connection:
        connection.execute(sa.update(token.__table__).values(id=made_up))
    assert len(keys_of(shop)) == 4


@pytest.mark.parametrize("extension", [False, True], ids=["dialect option", "extension"])
@pytest.mark.parametrize("deletes", [False, True], ids=["update", "delete"])
@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_rows_up_to_a_limit(borrow_shop: NewShop, engine: str, deletes: bool, extension: bool) -> None:
    shop = fill(borrow_shop(engine))
    tag = shop.models.Tag.__table__
    statement: Any = sa.delete(tag) if deletes else sa.update(tag).values(name=sa.func.concat("x", tag.c.name))
    if extension:
        limit = pytest.importorskip("sqlalchemy.dialects.mysql", reason="SQLAlchemy 2.1").__dict__.get("limit")
        if limit is None:
            pytest.skip("SQLAlchemy 2.0 has no syntax extensions")
        statement = statement.ext(limit(4))
    else:
        statement = statement.with_dialect_options(mysql_limit=4)
    with shop.engine.begin() as connection:
        assert connection.execute(statement.where(tag.c.id > 3)).rowcount == 4
        with shop.engine.connect() as other:
            # The rows beyond the limit are not locked.
            free = sa.select(tag.c.id).where(tag.c.id > 3).with_for_update(skip_locked=True)
            assert len(other.execute(free).all()) >= 20
    assert len(keys_of(shop)) == 4


@pytest.mark.parametrize("deletes", [False, True], ids=["update", "delete"])
@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_a_statement_keeps_its_limit_for_each_set_and_each_execution(
    borrow_shop: NewShop, engine: str, deletes: bool
) -> None:
    shop = fill(borrow_shop(engine))
    tag = shop.models.Tag.__table__
    statement: Any = sa.delete(tag) if deletes else sa.update(tag).values(name=sa.func.concat("x", tag.c.name))
    statement = statement.where(tag.c.id > sa.bindparam("above")).with_dialect_options(mysql_limit=2)
    with shop.engine.begin() as connection:
        assert [connection.execute(statement, {"above": 3}).rowcount for _ in range(2)] == [2, 2]
        assert connection.execute(statement, [{"above": 10}, {"above": 20}, {"above": 29}]).rowcount == 5
    assert len(keys_of(shop)) == (9 if deletes else 7)


def test_a_limit_counts_the_rows_that_the_orm_chooses(borrow_shop: NewShop) -> None:
    shop = fill(borrow_shop("mariadb"))
    tag = shop.models.Tag
    update = sa.update(tag).values(name=sa.func.concat("x", tag.name)).with_dialect_options(mysql_limit=2)
    update = update.options(with_loader_criteria(tag, tag.id > 20))
    with shop.sessions.begin() as session:
        session.execute(update, execution_options={"synchronize_session": False})
    changed = keys_of(shop)
    assert len(changed) == 2
    assert min(changed) > 20


def test_the_sets_of_an_executemany_choose_by_what_the_earlier_sets_have_changed(filled: Shop) -> None:
    tag = filled.models.Tag.__table__
    least = sa.select(sa.func.min(tag.c.id)).where(tag.c.name.like("tag%")).scalar_subquery()
    derived = sa.select(least.label("id")).subquery("least")
    chosen = tag.c.id == sa.select(derived.c.id).scalar_subquery()
    update = sa.update(tag).where(chosen).values(name=sa.bindparam("new"))
    with filled.engine.begin() as connection:
        assert connection.execute(update, [{"new": "a"}, {"new": "b"}, {"new": "c"}]).rowcount == 3
    assert keys_of(filled) == [1, 2, 3]


def test_sets_of_an_executemany_that_change_the_same_row(filled: Shop) -> None:
    tag = filled.models.Tag.__table__
    update = sa.update(tag).where(tag.c.name.like(sa.bindparam("old"))).values(name=sa.bindparam("new"))
    with filled.engine.begin() as connection:
        sets = [{"old": "tag 7", "new": "seven"}, {"old": "sev%", "new": "7"}, {"old": "7", "new": "tag 7"}]
        assert connection.execute(update, sets).rowcount == 3
    assert keys_of(filled) == [7]


def test_sets_of_an_executemany_that_move_a_row_from_key_to_key(filled: Shop) -> None:
    tag = filled.models.Tag.__table__
    update = sa.update(tag).where(tag.c.id == sa.bindparam("old")).values(id=sa.bindparam("new"))
    with filled.engine.begin() as connection:
        sets = [{"old": 7, "new": 70}, {"old": 70, "new": 71}, {"old": 8, "new": 7}]
        assert connection.execute(update, sets).rowcount == 3
    assert keys_of(filled) == [7, 8, 71]


# -- the application's own RETURNING


def uncaptured(shop: Shop, do: Callable[[], Any]) -> Any:
    """Return what ``do`` returns without the capture."""
    shop.capture.uninstall(shop.sessions)
    try:
        return do()
    finally:
        shop.capture.install(shop.sessions)


@pytest.mark.parametrize(("engine", "kind"), [*RETURNING, ("postgresql", "alias"), ("sqlite", "alias")])
@pytest.mark.parametrize(
    "columns",
    [
        lambda t: [t.c.name],
        lambda t: [t.c.name, t.c.id, (t.c.id + 1).label("next")],
        lambda t: [t.c.id.label("number"), sa.literal("x").label("id")],
        lambda t: [t],
    ],
    ids=["no key", "key", "another column of that name", "all"],
)
def test_an_own_returning_shows_what_it_shows_without_the_capture(
    borrow_shop: NewShop, engine: str, columns: Build, kind: str
) -> None:
    shop = fill(borrow_shop(engine))
    tag: Any = shop.models.Tag.__table__
    if kind == "alias":
        tag = tag.alias("t")
    statement: Any = sa.delete(tag) if kind == "delete" else sa.update(tag).values(name=tag.c.name + "x")
    statement = statement.where(tag.c.id.between(4, 6)).returning(*columns(tag))

    def execute() -> Any:
        with shop.engine.connect() as connection:
            result = connection.execute(statement)
            return result.rowcount, list(result.keys()), sorted(map(tuple, result))

    assert execute() == uncaptured(shop, execute)
    with shop.engine.begin() as connection:
        connection.execute(statement)
    assert keys_of(shop) == [4, 5, 6]


@pytest.mark.parametrize(("engine", "kind"), RETURNING)
@pytest.mark.parametrize("synchronize", [False, "evaluate", "fetch"])
def test_a_returning_of_the_orm_gives_what_it_gives_without_the_capture(
    borrow_shop: NewShop, engine: str, synchronize: Any, kind: str
) -> None:
    shop = fill(borrow_shop(engine))
    tag = shop.models.Tag
    statement: Any = sa.delete(tag) if kind == "delete" else sa.update(tag).values(name="x")
    statement = statement.where(tag.id == 4).execution_options(synchronize_session=synchronize)

    def execute(*columns: Any) -> Any:
        with shop.sessions() as session:
            loaded = session.get(tag, 4)
            found = session.execute(statement.returning(*columns)).all()
            assert loaded is not None
            state = sa.inspect(loaded)
            return [tuple(getattr(v, "id", v) for v in row) for row in found], state.deleted or loaded.name

    for returned in ([tag], [tag.name], [tag.name, tag.id]):
        assert execute(*returned) == uncaptured(shop, partial(execute, *returned))
    with shop.sessions.begin() as session:
        session.execute(statement.returning(tag.name)).all()
    assert keys_of(shop) == [4]


# -- other transactions


@contextmanager
def committed_before_the_statement(shop: Shop, act: Callable[[], None]) -> Iterator[None]:
    """Act once, after all reads of the capture, and just before the UPDATE or DELETE."""
    waiting = [act]

    def before(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if waiting and sql.startswith(("UPDATE", "DELETE")):
            waiting.pop()()

    sa.event.listen(shop.engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        sa.event.remove(shop.engine, "before_cursor_execute", before)
    assert not waiting


@pytest.mark.parametrize(("engine", "returning"), [*((name, False) for name in SERVERS), ("postgresql", True)])
def test_a_queue_takes_the_job_that_it_notes(borrow_shop: NewShop, engine: str, returning: bool) -> None:
    """A job that another worker gives back meanwhile comes before the job that was free."""
    shop = fill(borrow_shop(engine))
    tag = shop.models.Tag.__table__
    free = sa.select(tag.c.id).where(tag.c.name.like("tag%")).order_by(tag.c.id).limit(1)
    job = free.with_for_update(skip_locked=True).subquery("job")
    pop = sa.update(tag).where(tag.c.id == sa.select(job.c.id).scalar_subquery()).values(name="taken")
    if returning:
        pop = pop.returning(tag.c.id)
    with shop.engine.connect() as other:
        other.execute(sa.select(tag).where(tag.c.id == 1).with_for_update())
        with committed_before_the_statement(shop, other.rollback), shop.engine.begin() as connection:
            connection.execute(pop)
    assert keys_of(shop) == ([1] if engine == "postgresql" else [2])


@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
@pytest.mark.parametrize("union", [False, True], ids=["", "union"])
def test_a_subquery_is_read_as_the_statement_reads_it(borrow_shop: NewShop, engine: str, union: bool) -> None:
    """With REPEATABLE READ an UPDATE reads what is committed, and a SELECT reads what was committed before."""
    shop = fill(borrow_shop(engine))
    tag, reading = shop.models.Tag.__table__, shop.models.Reading.__table__
    chosen: Any = sa.select(reading.c["at"]).where(reading.c.sensor == "q")
    if union:
        chosen = sa.union(chosen, sa.select(reading.c["at"]).where(reading.c.sensor == "r"))
    with shop.engine.connect() as connection:
        connection.execute(sa.select(reading)).all()
        with shop.engine.begin() as other:
            other.execute(sa.insert(reading), {"sensor": "q", "at": 9, "value": 1})
        shop.take()
        assert connection.execute(sa.update(tag).where(tag.c.id.in_(chosen)).values(name="x")).rowcount == 1
        joined = sa.update(tag).where(tag.c.id == reading.c["at"], reading.c.sensor == "q").values(name="y")
        assert connection.execute(joined).rowcount == 1
        connection.commit()
    assert keys_of(shop) == [9]


@pytest.mark.parametrize("engine", SERVERS)
def test_a_row_that_another_transaction_adds_meanwhile_is_left_alone(borrow_shop: NewShop, engine: str) -> None:
    shop = fill(borrow_shop(engine))
    customer, note = shop.models.Customer.__table__, shop.models.Note.__table__
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(customer), [{"id": n, "full name": "x"} for n in (1, 2)])
        connection.execute(sa.insert(note), [{"id": n, "customer_id": n, "body": "b"} for n in (1, 2)])
    shop.take()

    def add() -> None:
        with shop.engine.begin() as other:
            other.execute(sa.insert(customer), {"id": 3, "full name": "x"})

    with committed_before_the_statement(shop, add), shop.engine.connect() as connection:
        connection = connection.execution_options(isolation_level="READ COMMITTED")
        deleted = connection.execute(sa.delete(customer).where(customer.c["full name"] == "x"))
        assert deleted.rowcount == 2
        connection.commit()
    shop.take()
    assert shop.mirror == shop.rows()
    assert len(shop.mirror) > 0


@pytest.mark.parametrize("engine", SERVERS)
def test_a_parent_that_another_transaction_adds_under_the_named_key(borrow_shop: NewShop, engine: str) -> None:
    """The children of a deleted row must be read first, and the row may be added after that."""
    shop = borrow_shop(engine)
    customer = shop.models.Customer.__table__

    def add() -> None:
        with shop.engine.begin() as other:
            other.execute(sa.insert(customer), {"id": 3, "full name": "x"})

    with committed_before_the_statement(shop, add), shop.engine.connect() as connection:
        connection = connection.execution_options(isolation_level="READ COMMITTED")
        assert connection.execute(sa.delete(customer).where(customer.c.id == 3)).rowcount == 0
        connection.commit()
    shop.take()
    assert shop.mirror == shop.rows() != {}


@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_an_update_of_two_tables_changes_no_row_that_is_added_meanwhile(borrow_shop: NewShop, engine: str) -> None:
    shop = fill(borrow_shop(engine))
    tag, reading = shop.models.Tag.__table__, shop.models.Reading.__table__
    both = sa.update(tag).where(tag.c.id == reading.c["at"], reading.c.value < 100)
    both = both.values({tag.c.name: sa.func.concat("x", tag.c.name), reading.c.value: reading.c.value + 1000})

    def add() -> None:
        with shop.engine.begin() as other:
            other.execute(sa.insert(reading), [{"sensor": "c", "at": n, "value": 0} for n in (1, 9)])

    with committed_before_the_statement(shop, add), shop.engine.connect() as connection:
        connection = connection.execution_options(isolation_level="READ COMMITTED")
        connection.execute(both)
        connection.commit()
    changes = shop.take()
    assert sorted(change["t"].split(".")[-1] for change in changes) == ["readings"] * 8 + ["tags"] * 3
    assert shop.mirror == shop.rows()


# -- locks


def _updates(shop: Shop, name: str) -> dict[str, Any]:
    """Return UPDATEs of the customer with the name, for each way of knowing the key."""
    customer: Any = shop.models.Customer
    table, alias = customer.__table__, customer.__table__.alias()
    by_condition = sa.update(table).where(table.c["full name"] == name).values(visits=5)
    return {
        "condition": by_condition,
        "returning": by_condition.returning(table.c.visits),
        "alias": sa.update(alias).where(alias.c["full name"] == name).values(visits=5),
        "orm": sa.update(customer).where(customer.name == name).values(visits=5),
    }


@pytest.mark.parametrize(
    ("engine", "way"),
    [*(("postgresql", way) for way in ("condition", "returning", "alias", "orm")), ("mariadb", "condition")],
)
def test_two_transactions_that_use_a_parent_of_each_other_end_as_without_the_capture(
    borrow_shop: NewShop, engine: str, way: str
) -> None:
    """Each inserts a child, whose foreign key locks the parent, and then touches the other's parent."""
    shop = borrow_shop(engine)
    note = shop.models.Note.__table__
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(shop.models.Customer.__table__), [{"id": n, "full name": f"c{n}"} for n in (1, 2)])

    def both_end() -> list[str]:
        barrier, ends = threading.Barrier(2), list[str]()

        def work(mine: int, other: int) -> None:
            try:
                with Session(shop.engine) as session, session.begin():
                    session.execute(sa.insert(note), {"customer_id": mine, "body": "b"})
                    barrier.wait(10)
                    session.execute(_updates(shop, f"c{other}")[way])
                ends.append("committed")
            except sa.exc.OperationalError as error:
                ends.append(type(error.orig).__name__)

        threads = [threading.Thread(target=work, args=pair) for pair in ((1, 2), (2, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return sorted(ends)

    assert both_end() == uncaptured(shop, both_end)


def test_an_update_takes_no_stronger_lock_than_its_own(borrow_shop: NewShop) -> None:
    """A foreign key of another transaction may refer to the row, because the key stays."""
    shop = borrow_shop("postgresql")
    customer = shop.models.Customer.__table__
    alias: Any = customer.alias()
    with shop.engine.begin() as connection:
        connection.execute(sa.insert(customer), [{"id": n, "full name": f"c{n}"} for n in range(1, 7)])
    shop.take()
    by_key = sa.update(customer).where(customer.c.id == sa.bindparam("k"))
    with shop.engine.connect() as connection, shop.engine.connect() as other:
        connection.execute(sa.update(alias).where(alias.c["full name"] == "c1").values(visits=1))
        connection.execute(sa.update(alias).where(alias.c.id == sa.func.least(2, 9)).values(visits=2))
        connection.execute(by_key.values(visits=3), [{"k": 3}, {"k": 98}])
        by_condition = sa.update(customer).where(customer.c["full name"] == sa.bindparam("n")).values(visits=4)
        connection.execute(by_condition, [{"n": "c4"}, {"n": "c5"}])
        shop.capture.flush(connection)
        refer = sa.select(customer.c.id).with_for_update(read=True, key_share=True, nowait=True)
        assert len(other.execute(refer).all()) == 6
        connection.commit()
    shop.take()
    assert shop.mirror == shop.rows()
    with shop.engine.connect() as connection, shop.engine.connect() as other:
        connection.execute(sa.delete(customer).where(customer.c["full name"] == "c1"))
        with pytest.raises(sa.exc.OperationalError, match="could not obtain lock"):
            other.execute(refer)


# -- refused


class _Unknown(ClauseElement):
    inherit_cache = False


@compiles(_Unknown)
def _compile_unknown(element: Any, compiler: Any, **_: Any) -> str:
    return ""


@pytest.mark.parametrize("strict", ["raise", "warn"])
def test_a_syntax_extension_that_the_capture_does_not_know(borrow_shop: NewShop, strict: str) -> None:
    shop = fill(borrow_shop("mariadb", strict=strict))
    tag = shop.models.Tag.__table__
    update = sa.update(tag).where(tag.c.id > 28).values(name=sa.func.concat("x", tag.c.name))
    if not hasattr(update, "_post_criteria_clause"):
        pytest.skip("SQLAlchemy 2.0 has no syntax extensions")
    update._post_criteria_clause = _Unknown()
    with shop.engine.begin() as connection:
        if strict == "raise":
            with pytest.raises(CaptureError, match="unknown syntax extension changes"):
                connection.execute(update)
        else:
            with pytest.warns(CaptureWarning, match="unknown syntax extension changes"):
                assert connection.execute(update).rowcount == 2
    assert not shop.take()
