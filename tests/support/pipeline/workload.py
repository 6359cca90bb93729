"""Change the rows of the shop at random, from a seed, one transaction after another.

As a program, the workload runs until SIGTERM: ``python -m support.pipeline.workload URL SOURCE WRITER SEED``.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.orm.exc import ObjectDeletedError, StaleDataError
from sqlalchemy.pool import QueuePool

from rowcast.producer import Capture
from rowcast.shared.cli.signals import stop_on_signals
from rowcast.shared.errors import CaptureError
from support.pipeline.ledger import Ledger
from support.shop import Colour, Models

Operation = Callable[["Shopper", Session], None]

OPERATIONS: list[Operation] = []

_TEXTS = ("plain", 'it\'s \\ "q" \t\n', "é😀 ünïcode", "", "NULL", '{"a":{"b":[1,2]}}', "%s :x ?", ',"a":{')


# Errors by which two writers disturb each other. The warning about a missing row in a DELETE is an error here.
_CONFLICTS = (
    exc.OperationalError,
    exc.IntegrityError,
    exc.SAWarning,
    StaleDataError,
    ObjectDeletedError,
    CaptureError,
)


class RolledBackError(Exception):
    """Roll back a transaction by a decision of the application."""


def operation(function: Operation) -> Operation:
    OPERATIONS.append(function)
    return function


class Shopper:
    """Change rows as one writer.

    Names and keys begin with the writer's number, so two writers never insert the same row.
    """

    def __init__(self, models: Models, writer: int, seed: int) -> None:
        self.m = models
        self.writer = writer
        self.random = random.Random(seed)
        self._number = 0

    def number(self) -> int:
        self._number += 1
        return self.writer * 1_000_000 + self._number

    def go_on_from(self, session: Session) -> None:
        """Continue after the last committed number of a writer that was killed."""
        mine = self.m.Reading.at.between(self.writer * 1_000_000, self.writer * 1_000_000 + 999_999)
        self._number = max(0, (session.scalar(sa.select(sa.func.max(self.m.Reading.at)).where(mine)) or 0) % 1_000_000)

    def name(self) -> str:
        return f"{self.writer}-{self.random.getrandbits(48):x}"

    def some(self, session: Session, entity: Any, count: int, *, own: bool = True) -> Sequence[Any]:
        """Return at most ``count`` existing rows."""
        primary = sa.inspect(entity).primary_key
        rows = session.scalars(sa.select(entity).order_by(*primary).limit(200)).all()
        return self.random.sample(rows, min(count, len(rows)))


@operation
def add_a_customer_with_everything(shopper: Shopper, session: Session) -> None:
    m, r = shopper.m, shopper.random
    tags = shopper.some(session, m.Tag, 2)
    session.add(
        m.Customer(
            name=r.choice([*_TEXTS, None]),
            secret=r.choice(["stored reversed", None]),
            settings=r.choice([None, {}, {"deep": [1, None, {"ü": 1.5}]}, {"text": r.choice(_TEXTS)}]),
            colour=r.choice([Colour.RED, Colour.BLUE, None]),
            orders=[
                m.Order(
                    amount=Decimal(r.randrange(-10_000, 1_000_000)) / 100,
                    placed=date(1969, 7, 20) + timedelta(days=r.randrange(40_000)),
                    created=datetime(2026, 11, 21, 10, 11, r.randrange(60), tzinfo=UTC),
                    tags=list(tags),
                )
                for _ in range(r.randrange(4))
            ],
            notes=[
                m.Note(body=r.choice(_TEXTS) * 9, data=r.randbytes(r.randrange(300))) for _ in range(r.randrange(3))
            ],
        )
    )


@operation
def change_attributes(shopper: Shopper, session: Session) -> None:
    m, r = shopper.m, shopper.random
    for customer in shopper.some(session, m.Customer, 3):
        customer.visits = m.Customer.visits + 1
        customer.name = r.choice([*_TEXTS, None])
        customer.settings = r.choice([None, {"n": r.random()}])
        for order in customer.orders:
            order.status = "seen"


@operation
def update_in_bulk(shopper: Shopper, session: Session) -> None:
    m, r = shopper.m, shopper.random
    session.execute(
        sa.update(m.Order).where(m.Order.amount > r.randrange(10_000)).values(amount=m.Order.amount - 1, status="paid")
    )


@operation
def insert_in_bulk(shopper: Shopper, session: Session) -> None:
    m, r = shopper.m, shopper.random
    rows = [{"sensor": r.choice("abc"), "at": shopper.number(), "value": r.choice([None, r.random(), 1e300, -0.1])}]
    rows += [{"sensor": r.choice("abc"), "at": shopper.number(), "value": r.random()} for _ in range(r.randrange(40))]
    session.execute(sa.insert(m.Reading), rows)
    session.bulk_save_objects([m.Token(), m.Token(used=True)])


@operation
def delete_in_bulk(shopper: Shopper, session: Session) -> None:
    m, r = shopper.m, shopper.random
    session.execute(sa.delete(m.Reading).where(m.Reading.value < r.random() / 2, m.Reading.sensor == r.choice("abc")))


@operation
def delete_with_cascades(shopper: Shopper, session: Session) -> None:
    """Delete a customer. The session deletes orders and their tags, and the database deletes notes."""
    for customer in shopper.some(session, shopper.m.Customer, 2):
        session.delete(customer)


@operation
def delete_orphans(shopper: Shopper, session: Session) -> None:
    for customer in shopper.some(session, shopper.m.Customer, 3):
        if customer.orders:
            customer.orders.pop()


@operation
def roll_everything_back(shopper: Shopper, session: Session) -> None:
    add_a_customer_with_everything(shopper, session)
    update_in_bulk(shopper, session)
    session.flush()
    raise RolledBackError


@operation
def roll_savepoints_back(shopper: Shopper, session: Session) -> None:
    m = shopper.m
    kept = session.begin_nested()
    session.add(m.Customer(name="kept"))
    try:
        with session.begin_nested():
            session.add(m.Customer(name="never seen"))
            session.execute(sa.update(m.Customer).values(visits=-1))
            session.flush()
            raise RolledBackError
    except RolledBackError:
        pass
    kept.commit()
    with session.begin_nested():
        session.add(m.Customer(name="kept too"))


@operation
def come_and_go(shopper: Shopper, session: Session) -> None:
    """Insert and delete a row in one transaction, and replace a row by a new row with the same key."""
    m = shopper.m
    reading = m.Reading(sensor="gone", at=shopper.number(), value=1.0)
    session.add(reading)
    session.flush()
    session.delete(reading)
    session.flush()
    for token in shopper.some(session, m.Token, 1):
        key = token.id
        session.delete(token)
        session.flush()
        session.expunge_all()
        session.add(m.Token(id=key, used=True))


@operation
def add_tags(shopper: Shopper, session: Session) -> None:
    session.add_all([shopper.m.Tag(name=shopper.name()) for _ in range(3)])


@operation
def rotate_unique_names(shopper: Shopper, session: Session) -> None:
    """Give each tag the name of the next. No order of single upserts can do so."""
    tags = shopper.some(session, shopper.m.Tag, 3)
    names = [tag.name for tag in tags]
    for tag in tags:
        tag.name = shopper.name()
    session.flush()
    for tag, name in zip(tags, names[1:] + names[:1], strict=True):
        tag.name = name


@operation
def hand_a_unique_name_on(shopper: Shopper, session: Session) -> None:
    """Delete a tag, and insert a new tag with the name of the deleted tag."""
    m = shopper.m
    for tag in shopper.some(session, m.Tag, 1):
        name = tag.name
        session.execute(sa.delete(m.order_tag).where(m.order_tag.c.tag_id == tag.id))
        session.expire_all()
        session.delete(tag)
        session.flush()
        session.add(m.Tag(name=name))


@operation
def tie_and_untie(shopper: Shopper, session: Session) -> None:
    m = shopper.m
    for order in shopper.some(session, m.Order, 2):
        order.tags = list(shopper.some(session, m.Tag, 2))


@operation
def build_a_hierarchy(shopper: Shopper, session: Session) -> None:
    """Insert rows with references to rows of the same table, also to rows inserted later."""
    m = shopper.m
    boss = m.Person(name="boss")
    session.add(boss)
    session.flush()
    session.add_all([m.Engineer(name="e", language="python", boss_id=boss.id) for _ in range(3)])
    session.flush()
    head = m.Engineer(name="head", language="sql")
    session.add(head)
    session.flush()
    boss.boss_id = head.id


@operation
def close_a_circle(shopper: Shopper, session: Session) -> None:
    """Insert two rows with references to each other. No order of two inserts satisfies both references."""
    m = shopper.m
    one, other = m.Person(name="one"), m.Engineer(name="other", language="c")
    session.add_all([one, other])
    session.flush()
    one.boss_id, other.boss_id = other.id, one.id


@operation
def take_a_hierarchy_apart(shopper: Shopper, session: Session) -> None:
    m = shopper.m
    for person in shopper.some(session, m.Person, 2):
        session.execute(sa.update(m.Person).where(m.Person.boss_id == person.id).values(boss_id=None))
        session.delete(person)
        session.flush()


@operation
def rename_people(shopper: Shopper, session: Session) -> None:
    for engineer in shopper.some(session, shopper.m.Engineer, 3):
        engineer.name, engineer.language = "renamed", shopper.random.choice(["rust", "ü"])


@operation
def change_keys(shopper: Shopper, session: Session) -> None:
    for reading in shopper.some(session, shopper.m.Reading, 2):
        reading.at = shopper.number()


class Application:
    """Hold models, sessions and capture of a writer. ``step`` runs one transaction.

    ``alone``: no other writer runs yet. A lone writer creates the tables, and may meet no conflict.
    """

    def __init__(self, url: str, source: str, writer: int = 1, seed: int = 1, *, alone: bool = True) -> None:
        self.alone = alone
        self.models = Models()
        self.ledger = Ledger(self.models.metadata, writer)
        self.engine = application_engine(url)
        self.sessions = sessionmaker(self.engine)
        self.capture = Capture(self.models.metadata, source=source)
        self.capture.install(self.sessions)
        self.shopper = Shopper(self.models, writer, seed)
        if alone:
            self.models.metadata.create_all(self.engine)
            with self.sessions.begin() as session:
                self.ledger.open(session)
        with self.sessions() as session:
            self.shopper.go_on_from(session)
            self.ledger.go_on_from(session)

    @property
    def metadata(self) -> sa.MetaData:
        return self.models.metadata

    def run_each_operation(self, times: int) -> None:
        """Run every operation ``times`` times, in random order."""
        chosen = OPERATIONS * times
        self.shopper.random.shuffle(chosen)
        for one in chosen:
            self.step(one)

    def step(self, chosen: Operation | None = None) -> None:
        """Run one transaction with a transfer and an operation."""
        chosen = chosen or self.shopper.random.choice(OPERATIONS)
        try:
            with self.sessions.begin() as session:
                self.ledger.transfer(session, self.shopper.random)
                chosen(self.shopper, session)
        except RolledBackError:
            self.ledger.rolled_back()
        except _CONFLICTS:
            # Two writers were in conflict, and the writer continues with a different transaction. A lone writer may
            # meet no conflict, because neither the relay nor anything else may cause an error in the application.
            self.ledger.rolled_back()
            if self.alone:
                raise

    def close(self) -> None:
        self.capture.uninstall(self.sessions)
        self.engine.dispose()


def application_engine(url: str) -> sa.Engine:
    """Create the application's engine.

    On SQLite, savepoints work as in SQLAlchemy's documentation, and a transaction locks the database from the
    beginning.
    """
    engine = sa.create_engine(url, poolclass=QueuePool)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def no_implicit_transactions(connection: Any, _record: object) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA busy_timeout=30000")

        @sa.event.listens_for(engine, "begin")
        def begin_as_writer(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def go_on_until_stopped(url: str, source: str, writer: int, seed: int, stop: threading.Event) -> None:
    application = Application(url, source, writer, seed, alone=False)
    print("writing", flush=True)
    while not stop.is_set():
        application.step()
        # The pace is even, because the databases must stay small enough for a comparison.
        stop.wait(0.05)
    application.close()


if __name__ == "__main__":
    with stop_on_signals() as asked:
        go_on_until_stopped(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), asked)
