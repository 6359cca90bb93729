"""During a long read of the outbox, the caller can renew the lease."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rowcast.producer.relay.claims.background_read import read_in_background
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.outbox_reader import OutboxReader
from rowcast.shared.errors import FencedError
from support.relay.primary import ORDERS, Primary, line, primary_at


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
    """Call ``step`` again and again during a read, in the thread that reads."""
    driver = connections.reader.connection.dbapi_connection
    assert driver is not None
    driver.set_progress_handler(lambda: step() and None, 10)


READS: dict[str, Callable[[OutboxReader], object]] = {
    "a leader's first look": lambda outbox: outbox.heads(1_000, range(0), 0),
    "the first rows of a few": lambda outbox: outbox.heads_of(["t1", "t2"], 0, 6, 10),
    "where transactions end": lambda outbox: outbox.transaction_ends(1, (), 10),
    "one transaction's rows": lambda outbox: outbox.ids_of_transaction("t2"),
    "large rows": lambda outbox: outbox.rows([1, 2, 3, 4, 5, 6]),
}


@pytest.mark.parametrize("read", READS)
def test_a_long_read_lets_its_caller_work(primary: Primary, connections: Connections, read: str) -> None:
    worked, here = threading.Event(), threading.get_ident()
    slow(connections, lambda: threading.get_ident() == here or worked.wait(30))
    callers = set()

    def renew_lease() -> None:
        callers.add(threading.get_ident())
        # A heartbeat renews the lease in this way while the read is running.
        with connections.writer.begin():
            connections.writer.exec_driver_sql("UPDATE rowcast_lease SET expires_ms = 0")
        worked.set()

    assert READS[read](OutboxReader(connections, primary.tables, renew_lease))
    assert callers == {here}


def test_a_scan_takes_a_thread_only_where_many_rows_may_wait(primary: Primary, connections: Connections) -> None:
    """Each event waits for a read of a few rows, so that a thread must not delay the read."""
    readers = set[int]()
    slow(connections, lambda: readers.add(threading.get_ident()))
    outbox, here = OutboxReader(connections, primary.tables), threading.get_ident()
    apart = []
    for limit in (3, 7, 7, 3, 7, 7):
        readers.clear()
        outbox.heads(limit, range(0), 0)
        apart.append(readers != {here})
    # If a read returned as many rows as its limit, more rows may wait.
    assert apart == [True, True, False, False, True, False]
    readers.clear()
    outbox.rows([1], large=False)
    assert readers == {here}


def test_a_relay_fenced_during_a_read_gets_the_error_after_the_read() -> None:
    """The error comes after the end of the read, when the connection is free again."""
    fenced = threading.Event()
    ended = []

    def read() -> None:
        assert fenced.wait(30)
        ended.append(True)

    def renew_lease() -> None:
        fenced.set()
        raise FencedError("another relay has taken over")

    with pytest.raises(FencedError):
        read_in_background(read, renew_lease)
    assert ended


def test_the_error_of_a_read_is_its_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        read_in_background(lambda: 1 // 0, lambda: None)
