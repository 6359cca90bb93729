"""A read of the outbox that may take longer than a lease leaves its caller time to renew it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rowcast.producer.relay.connections import Connections
from rowcast.producer.relay.patience import patiently
from rowcast.producer.relay.reading import Outbox
from rowcast.shared.errors import FencedError
from unit.relay_database import ORDERS, Primary, line, primary_at


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    with primary_at(tmp_path / "primary.db") as primary:
        for n in range(1, 7):
            primary.add(f"t{n}", line(ORDERS, "c", n), complete=None)
        yield primary


@pytest.fixture
def connections(primary: Primary) -> Iterator[Connections]:
    with Connections(primary.engine) as connections:
        yield connections


def slow(connections: Connections, step: Callable[[], object]) -> None:
    """Calls ``step`` now and then while the reader is at work, in the thread that reads."""
    driver = connections.reader.connection.dbapi_connection
    assert driver is not None
    driver.set_progress_handler(lambda: step() and None, 10)


READS: dict[str, Callable[[Outbox], object]] = {
    "a leader's first look": lambda outbox: outbox.heads(1_000, range(0), 0),
    "the first rows of a few": lambda outbox: outbox.heads_of(["t1", "t2"], 0, 6, 10),
    "where transactions end": lambda outbox: outbox.ends(1, (), 10),
    "one transaction's rows": lambda outbox: outbox.ids_of("t2"),
    "large rows": lambda outbox: outbox.rows([1, 2, 3, 4, 5, 6]),
}


@pytest.mark.parametrize("read", READS)
def test_a_long_read_lets_its_caller_work(primary: Primary, connections: Connections, read: str) -> None:
    worked, here = threading.Event(), threading.get_ident()
    slow(connections, lambda: threading.get_ident() == here or worked.wait(30))
    callers = set()

    def meanwhile() -> None:
        callers.add(threading.get_ident())
        # As the lease is renewed: while the read is under way.
        with connections.writer.begin():
            connections.writer.exec_driver_sql("UPDATE rowcast_lease SET expires_ms = 0")
        worked.set()

    assert READS[read](Outbox(connections, primary.tables, meanwhile))
    assert callers == {here}


def test_a_look_takes_a_thread_only_where_much_may_wait(primary: Primary, connections: Connections) -> None:
    """The look at a few rows is in the way of every event."""
    readers = set[int]()
    slow(connections, lambda: readers.add(threading.get_ident()))
    outbox, here = Outbox(connections, primary.tables), threading.get_ident()
    apart = []
    for limit in (3, 7, 7, 3, 7, 7):
        readers.clear()
        outbox.heads(limit, range(0), 0)
        apart.append(readers != {here})
    # Behind a look that its limit has cut more is waiting.
    assert apart == [True, True, False, False, True, False]
    readers.clear()
    outbox.rows([1], large=False)
    assert readers == {here}


def test_who_is_fenced_during_a_read_hears_of_it_when_it_has_ended() -> None:
    """The connection that it reads from is free again."""
    fenced = threading.Event()
    ended = []

    def read() -> None:
        assert fenced.wait(30)
        ended.append(True)

    def meanwhile() -> None:
        fenced.set()
        raise FencedError("another relay has taken over")

    with pytest.raises(FencedError):
        patiently(read, meanwhile)
    assert ended


def test_the_error_of_a_read_is_its_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: 1 // 0, lambda: None)
