"""An image is read, and its outbox id drawn, only under the row's lock: else an old state could come after a newer one.

Each test brings two or three transactions into the order in which that matters, and shows that without the lock the
outbox tells a wrong story. SQLite has one writer at a time: there is nothing to interleave.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.touched import Touched
from shop import Shop, open_shop

_LOOK_S = 0.12
"""InnoDB makes its table of transactions anew only for who has not looked for a tenth of a second."""
_GIVE_UP_S = 30

_WAITS_FOR_A_LOCK = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx "
    "WHERE trx_state = 'LOCK WAIT' AND trx_mysql_thread_id = %s",
}


@pytest.fixture(params=["postgresql", "mariadb"])
def shop(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> Iterator[Shop]:
    with open_shop(new_database(request.param)) as shop:
        yield shop


class Transactions:
    """Open transactions by name. READ COMMITTED: at REPEATABLE READ, InnoDB's INSERT … SELECT locks what it reads."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._stack = ExitStack()

    def __enter__(self) -> Transactions:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin(self) -> Connection:
        connection = self._stack.enter_context(self._shop.engine.connect())
        connection = connection.execution_options(isolation_level="READ COMMITTED")
        connection.begin()
        return connection

    def drain(self, connection: Connection) -> None:
        self._shop.capture.flush(connection)


class InBackground:
    """Work on a connection that may have to wait for a lock: begun, and done or waiting."""

    def __init__(self, connection: Connection, work: Callable[[], Any]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        looks = sa.create_engine(connection.engine.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with looks.connect() as look:
            number = _number_in_the_database(connection)
            self._thread.start()
            self.waits = self._comes_to_wait(look, number)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  # ``join`` raises it
            self._error = error

    def _comes_to_wait(self, look: Connection, number: int) -> bool:
        """True when the database says that the work waits for a lock, False when it is done."""
        deadline = time.monotonic() + _GIVE_UP_S
        while True:
            self._thread.join(_LOOK_S)
            if not self._thread.is_alive():
                return False
            if look.exec_driver_sql(_WAITS_FOR_A_LOCK[look.dialect.name], (number,)).scalar_one():
                return True
            assert time.monotonic() < deadline, "it is not done, and waits for no lock"

    def join(self) -> None:
        self._thread.join(_GIVE_UP_S)
        assert not self._thread.is_alive(), "it still waits for a lock"
        if self._error is not None:
            raise self._error


def _number_in_the_database(connection: Connection) -> int:
    driver: Any = connection.connection.dbapi_connection
    return int(driver.info.backend_pid if connection.dialect.name == "postgresql" else driver.thread_id())


def without_locks(patch: pytest.MonkeyPatch) -> None:
    """The capture without its rule."""
    patch.setattr(sa.Select, "with_for_update", lambda self, **_: self)
    patch.setattr(Touched, "rollback_to", lambda self, name: self._savepoints.clear())


def tells_the_truth(shop: Shop, waiting: Iterable[InBackground] = ()) -> bool:
    for other in waiting:
        other.join()
    shop.take()
    return shop.mirror == shop.rows()


@contextmanager
def committed_just_before(shop: Shop, first: Connection, change: sa.Update) -> Iterator[list[InBackground]]:
    """Another transaction makes ``change`` between the capture's look at ``first``'s keys and ``first``'s statement.

    It waits, if the capture has locked the row.
    """
    others: list[InBackground] = []

    other = shop.engine.connect()

    def commit() -> None:
        with other, other.begin():
            other.execute(change)

    def before_statement(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if connection is first and not statement.lstrip().startswith("SELECT") and not others:
            others.append(InBackground(other, commit))

    sa.event.listen(shop.engine, "before_cursor_execute", before_statement)
    try:
        yield others
    finally:
        sa.event.remove(shop.engine, "before_cursor_execute", before_statement)
    assert others


def newer_state_committed_around_a_drain(shop: Shop, drained: Connection, change: sa.Update) -> None:
    """A third transaction draws its id before ``drained`` does, and commits after that."""
    with Transactions(shop) as transactions:
        third = transactions.begin()
        writes = InBackground(third, lambda: third.execute(change))
        if writes.waits:
            # The engine still holds the row for ``drained``: it must go first.
            transactions.drain(drained)
            drained.commit()
            writes.join()
            transactions.drain(third)
            third.commit()
            return
        draws = InBackground(third, lambda: transactions.drain(third))
        old = InBackground(drained, lambda: transactions.drain(drained))
        draws.join()
        third.commit()
        old.join()
        drained.commit()


@pytest.mark.parametrize("rule", [True, False], ids=["with the rule", "without"])
def test_a_row_of_a_savepoint_that_was_rolled_back(shop: Shop, rule: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = shop.models.Reading.__table__
    with shop.engine.begin() as connection:
        connection.execute(reading.insert(), [{"sensor": s, "at": 1, "value": 0.0} for s in "ab"])
    shop.take()
    if not rule:
        without_locks(monkeypatch)
    with Transactions(shop) as transactions:
        first = transactions.begin()
        first.execute(reading.update().where(reading.c.sensor == "b", reading.c.at == 1).values(value=9.0))
        savepoint = first.begin_nested()
        change = reading.update().where(reading.c.sensor == "a", reading.c.at == 1)
        first.execute(change.values(value=1.0))
        savepoint.rollback()
        newer_state_committed_around_a_drain(shop, first, change.values(value=2.0))
    # InnoDB keeps the locks of a savepoint that is rolled back.
    assert tells_the_truth(shop) is (rule or shop.engine.dialect.name != "postgresql")


@pytest.mark.parametrize("rule", [True, False], ids=["with the rule", "without"])
def test_a_child_that_moved_away_before_a_cascade(shop: Shop, rule: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    customer, note = shop.models.Customer.__table__, shop.models.Note.__table__
    with shop.engine.begin() as connection:
        connection.execute(customer.insert(), [{"id": n, "full name": "x"} for n in (1, 2)])
        connection.execute(note.insert(), [{"id": 10, "customer_id": 1, "body": "old"}])
    shop.take()
    if not rule:
        without_locks(monkeypatch)
    with Transactions(shop) as transactions:
        first = transactions.begin()
        with committed_just_before(shop, first, note.update().where(note.c.id == 10).values(customer_id=2)) as others:
            first.execute(customer.delete().where(customer.c.id == 1))
        newer_state_committed_around_a_drain(shop, first, note.update().where(note.c.id == 10).values(body="new"))
    assert tells_the_truth(shop, others) is rule


@pytest.mark.parametrize("rule", [True, False], ids=["with the rule", "without"])
def test_a_row_that_a_bulk_update_no_longer_matched(shop: Shop, rule: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = shop.models.Reading.__table__
    with shop.engine.begin() as connection:
        connection.execute(reading.insert(), [{"sensor": s, "at": 1, "value": 1.0} for s in "ab"])
    shop.take()
    if not rule:
        without_locks(monkeypatch)
    change = reading.update().where(reading.c.sensor == "a", reading.c.at == 1)
    bulk = reading.update().where(reading.c.value == 1.0).values(value=reading.c.value + 100)
    if shop.engine.dialect.update_returning:
        # With the application's own RETURNING the keys are read before.
        bulk = bulk.returning(reading.c.value)
    with Transactions(shop) as transactions:
        first = transactions.begin()
        with committed_just_before(shop, first, change.values(value=5.0)) as others:
            first.execute(bulk).close()
        newer_state_committed_around_a_drain(shop, first, change.values(value=7.0))
    assert tells_the_truth(shop, others) is rule
