"""Interleave transactions, and show that the outbox would be wrong without the capture's row locks.

The capture reads a row image and draws the outbox id only under the row's lock. Otherwise an old state could come after
a newer state. SQLite is left out, because it has a single writer at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.dml import UpdateBase

from fixtures.databases import NewDatabase
from integration.capture.conftest import NewShop
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from support.lock_waits import InBackground
from support.shop import Shop, shop_engine


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


def mirror_is_right(shop: Shop, waiting: Iterable[InBackground] = ()) -> bool:
    for other in waiting:
        other.join()
    shop.take()
    return shop.mirror == shop.rows()


@contextmanager
def committed_just_before(shop: Shop, first: Connection, change: UpdateBase) -> Iterator[list[InBackground]]:
    """Make ``change`` in another transaction, between the capture's read of ``first``'s keys and ``first``'s statement.

    The change waits if the capture has locked the row, or the parent of a new row.
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
    assert mirror_is_right(shop) is (rule or shop.engine.dialect.name != "postgresql")


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
    assert mirror_is_right(shop, others) is rule


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def generations(request: pytest.FixtureRequest, new_lasting_database: NewDatabase) -> Iterator[Shop]:
    """Return a shop of parents with children and grandchildren. Foreign keys delete them, and follow a new key."""
    metadata = sa.MetaData()
    for name, above in (("parents", None), ("children", "parents"), ("grandchildren", "children")):
        actions: Any = {"ondelete": "CASCADE", "onupdate": "CASCADE"}
        to_above = [] if above is None else [sa.ForeignKeyConstraint(["above_id"], [f"{above}.id"], **actions)]
        id_ = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
        sa.Table(name, metadata, id_, sa.Column("above_id", sa.Integer), *to_above)
    models: Any = SimpleNamespace(metadata=metadata)
    shop = Shop(shop_engine(new_lasting_database(request.param)), models)
    yield shop
    shop.engine.dispose()


@pytest.mark.parametrize("rule", [True, False], ids=["with the rule", "without"])
@pytest.mark.parametrize(
    ("change", "added_to"), [("delete", "children"), ("delete", "grandchildren"), ("new key", "children")]
)
def test_a_row_added_below_a_row_just_before_a_cascade(
    generations: Shop, change: str, added_to: str, rule: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL lets other transactions refer to a row whose lock does not exclude a new foreign key."""
    tables = generations.models.metadata.tables
    parents = tables["parents"]
    with generations.engine.begin() as connection:
        connection.execute(sa.delete(parents))
    generations.take()
    generations.mirror.clear()
    with generations.engine.begin() as connection:
        for name, above in (("parents", None), ("children", 1), ("grandchildren", 1)):
            connection.execute(sa.insert(tables[name]), {"id": 1, "above_id": above})
    generations.take()
    if not rule:
        without_locks(monkeypatch)
    with Transactions(generations) as transactions:
        first = transactions.begin()
        added = sa.insert(tables[added_to]).values(id=2, above_id=1)
        with committed_just_before(generations, first, added) as others:
            statement = sa.delete(parents) if change == "delete" else sa.update(parents).values(id=3)
            first.execute(statement.where(parents.c.id == 1))
        first.commit()
    (other,) = others
    # The row that waited has no row to refer to.
    with pytest.raises(sa.exc.IntegrityError) if rule else nullcontext():
        other.join()
    assert mirror_is_right(generations) is rule


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
        assert mirror_is_right(shop, others)
    assert (shop.mirror["readings", b'{"sensor":"a","at":1}']["value"] == 5.0) is rule
