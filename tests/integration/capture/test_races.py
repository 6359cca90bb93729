"""Interleave transactions, and show that the outbox would be wrong without the capture's row locks.

The capture reads a row image and draws the outbox id only under the row's lock. Otherwise an old state could come after
a newer state. SQLite is left out, because it has a single writer at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from integration.capture.conftest import NewShop
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from support.lock_waits import InBackground
from support.shop import Shop


@pytest.fixture(params=["postgresql", "mariadb"])
def shop(request: pytest.FixtureRequest, borrow_shop: NewShop) -> Shop:
    return borrow_shop(request.param)


class Transactions:
    """Hold open transactions by name.

    They are READ COMMITTED, because at REPEATABLE READ InnoDB's INSERT … SELECT locks the rows that it reads.
    """

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


def without_locks(patch: pytest.MonkeyPatch) -> None:
    """Switch off the capture's locks."""
    patch.setattr(sa.Select, "with_for_update", lambda self, **_: self)
    patch.setattr(TransactionNotes, "rollback_to", lambda self, name: self._savepoints.clear())


def tells_the_truth(shop: Shop, waiting: Iterable[InBackground] = ()) -> bool:
    for other in waiting:
        other.join()
    shop.take()
    return shop.mirror == shop.rows()


@contextmanager
def committed_just_before(shop: Shop, first: Connection, change: sa.Update) -> Iterator[list[InBackground]]:
    """Make ``change`` in another transaction, between the capture's read of ``first``'s keys and ``first``'s statement.

    The change waits if the capture has locked the row.
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
    """Let a third transaction draw an outbox id before ``drained`` draws one, and commit after ``drained``."""
    with Transactions(shop) as transactions:
        third = transactions.begin()
        writes = InBackground(third, lambda: third.execute(change))
        if writes.waits:
            # The engine still holds the lock for ``drained``, which must commit first.
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
def test_a_row_that_a_bulk_update_no_longer_matches(shop: Shop, rule: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, tag = shop.models.Reading.__table__, shop.models.Tag.__table__
    with shop.engine.begin() as connection:
        connection.execute(tag.insert(), {"id": 1, "name": "one"})
        connection.execute(reading.insert(), [{"sensor": s, "at": 1, "value": 1.0} for s in "ab"])
    shop.take()
    if not rule:
        without_locks(monkeypatch)
    change = reading.update().where(reading.c.sensor == "a", reading.c.at == 1)
    # PostgreSQL's RETURNING gives the keys, unless the statement names an alias and another table.
    target: Any = reading.alias() if shop.engine.dialect.name == "postgresql" else reading
    bulk = sa.update(target).where(target.c.value == 1.0, target.c["at"] == tag.c.id).values(value=target.c.value + 100)
    with Transactions(shop) as transactions:
        first = transactions.begin()
        with committed_just_before(shop, first, change.values(value=5.0)) as others:
            first.execute(bulk)
        first.commit()
        assert tells_the_truth(shop, others)
    assert (shop.mirror["readings", b'{"sensor":"a","at":1}']["value"] == 5.0) is rule
