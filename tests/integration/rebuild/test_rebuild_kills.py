"""A rebuild is killed at random statements, while a program writes, a worker applies and readers look on.

Each transaction of the source writes a customer and an order. The old tables have a marker each. A reader that sees
another number of orders than of customers has seen a mixture, and so has a reader that sees a single marker, unless
only one of the tables is rebuilt.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from rowcast.shared.config.settings import Settings
from servers import Broker
from servers.guard import Guard
from support.forked_python import ForkedPython
from support.kafka_source import Source, column, shape
from support.project import TESTS
from support.rebuilds import Writer
from support.worker_runs import CUSTOMER, ORDERS, Database, RunningWorker, settings_for, work_once

ENGINES = ["postgresql", "mariadb", "mysql", "sqlite"]
_SEEN = (
    "SELECT (SELECT count(*) FROM customer WHERE id > 0), (SELECT count(*) FROM orders WHERE id > 0), "
    "(SELECT count(*) FROM customer WHERE id = -1), (SELECT count(*) FROM orders WHERE id = -1)"
)


class Readers:
    """Look at the tables until the end of the block, and keep what was seen."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._stop = threading.Event()
        self.seen: list[set[tuple[int, ...]]] = [set() for _ in range(count)]
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._read, args=(seen,), daemon=True) for seen in self.seen]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _read(self, seen: set[tuple[int, ...]]) -> None:
        engine = Database(self._url).engine
        try:
            with engine.connect() as connection:
                while not self._stop.is_set():
                    seen.add(tuple(connection.exec_driver_sql(_SEEN).one()))
                    connection.rollback()
                    # Readers without a pause would take half of the machine from the rebuild.
                    time.sleep(0.002)
        except BaseException as error:  # noqa: BLE001  # asserted by the test
            self.errors.append(error)


@pytest.fixture
def url(new_database: Callable[[str], str], request: pytest.FixtureRequest) -> str:
    return new_database(request.param)


@pytest.mark.parametrize("url", ENGINES, indirect=True)
@pytest.mark.parametrize("seed", [int(os.environ.get("ROWCAST_SEED", "1"))])
def test_readers_see_the_whole_old_or_the_whole_new_tables_whenever_the_rebuild_is_killed(
    seed: int, url: str, kafka: Broker, source_name: str, tmp_path: Path
) -> None:
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(CUSTOMER, ORDERS)
    seen = _killed_rebuild(source, url, random.Random(seed), tmp_path / "log")
    for reader in seen:
        for customers, orders, old_customers, old_orders in reader:
            assert customers == orders
            assert old_customers == old_orders
        assert {old for _, _, old, _ in reader} == {0, 1}


@pytest.mark.shared_dialect
@pytest.mark.parametrize("url", ENGINES, indirect=True)
@pytest.mark.parametrize("seed", [int(os.environ.get("ROWCAST_SEED", "1"))])
def test_readers_see_one_moment_of_all_tables_whenever_the_rebuild_of_a_chosen_table_is_killed(
    seed: int, url: str, kafka: Broker, source_name: str, tmp_path: Path
) -> None:
    source = Source(kafka.bootstrap_servers, source_name)
    # SQLite creates foreign keys only together with tables.
    plain = shape("orders", column("customer_id"), column("note", "text"), column("amount", "text"))
    source.add(CUSTOMER, plain if url.startswith("sqlite") else ORDERS)
    seen = _killed_rebuild(source, url, random.Random(seed), tmp_path / "log", tables=["orders"])
    for reader in seen:
        for customers, orders, old_customers, _ in reader:
            assert customers == orders
            assert old_customers == 1
        assert {old for _, _, _, old in reader} == {0, 1}


def _killed_rebuild(
    source: Source, url: str, choose: random.Random, log: Path, tables: Sequence[str] = ()
) -> list[set[tuple[int, ...]]]:
    """Rebuild with kills, while a program writes and a worker applies. Return everything that each reader has seen."""
    settings, replica, writer = settings_for(source.name, source.bootstrap, url), Database(url), Writer(source)
    for _ in range(20):
        writer.write()
    work_once(settings)
    replica.execute(
        "INSERT INTO customer (id, email) VALUES (-1, 'old')",
        "INSERT INTO orders (id, customer_id, note, amount) VALUES (-1, -1, 'old', 0)",
    )
    worker = RunningWorker(settings)
    try:
        with Readers(url, 2) as readers, writer, closing(Guard()) as guard:
            kills = _rebuild_with_kills(settings, choose, log, guard, tables)
            _wait_until(lambda: min(replica.rows("orders", "id"), default=(1,)) > (0,))
        lsn = source.lsn
        worker.until(lambda progress: progress.lsn >= lsn)
    finally:
        worker.stop()
    assert worker.error is None
    assert readers.errors == []
    expected = {(n,) for n in range(1, writer.number + 1)}
    assert set(replica.rows("orders", "id")) == expected
    assert set(replica.rows("customer", "id")) == expected | ({(-1,)} if tables else set())
    assert replica.state() == "consistent"
    assert not [t for t in replica.tables() if "_new_" in t or "_old_" in t or "swap" in t]
    assert kills > 0
    return readers.seen


def _rebuild_with_kills(
    settings: Settings, choose: random.Random, log: Path, guard: Guard, tables: Sequence[str]
) -> int:
    """Start the rebuild until it ends by itself. Return how often it was killed."""
    text = orjson.dumps(
        {
            "source": settings.source,
            "kafka": settings.kafka,
            "replicas": {"copy": {"url": settings.replica("copy").url.get_secret_value()}},
        }
    ).decode()
    most_kills = _MOST_KILLS // 2 if tables else _MOST_KILLS
    for kills in range(most_kills + 1):
        phase, most = ("swap", _SWAP_STATEMENTS) if kills % 2 else ("start", _STATEMENTS)
        number = choose.randrange(1, most) if kills < most_kills else _NEVER
        arguments = ["-m", "support.rebuild_process", str(number), phase, text, *tables]
        code = ForkedPython(arguments, log, guard, cwd=TESTS, environment=os.environ).wait(120)
        if code == 0:
            return kills
        assert code == -9, log.read_text()
    raise AssertionError(log.read_text())


_MOST_KILLS = int(os.environ.get("ROWCAST_KILLS", "2"))
_STATEMENTS, _SWAP_STATEMENTS, _NEVER = 120, 30, 1_000_000


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
