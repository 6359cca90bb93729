"""A worker that was killed, suspended or lost by the network is replaced within seconds."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from servers import Broker
from servers.guard import Guard
from support.kafka_source import Source, column, shape
from support.lock_waits import wait_until_something_waits
from support.silent_proxy import silent_proxy
from support.worker_process import WorkerProcess
from support.worker_runs import NAME, Database, running_worker, settings_for, work_once

pytestmark = pytest.mark.shared_dialect

ITEM = shape("item", column("n"))


@pytest.fixture
def replica(replica_url: str) -> Database:
    return Database(replica_url)


@pytest.fixture
def settings(kafka: Broker, source_name: str, replica_url: str) -> Settings:
    return settings_for(source_name, kafka.bootstrap_servers, replica_url, lease_ms=2_000)


@pytest.fixture
def source(kafka: Broker, source_name: str, settings: Settings) -> Source:
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 0, "n": 0}))
    work_once(settings)
    return source


Start = Callable[[str], WorkerProcess]


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Start worker processes, each with a log of its own, and kill them at the end of the test."""
    started: list[WorkerProcess] = []
    guard = Guard()

    def make(name: str) -> WorkerProcess:
        started.append(WorkerProcess(settings, tmp_path / name, guard))
        return started[-1]

    yield make
    for process in started:
        if process.runs:
            process.send(signal.SIGCONT)
            process.kill()
    guard.close()


def until(condition: Callable[[], bool], timeout: float = 60) -> float:
    """Wait for a condition. Return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout
        time.sleep(0.01)
    return time.monotonic() - began


def has(replica: Database, id: int) -> Callable[[], bool]:
    return lambda: (id,) in replica.rows("item", "id")


def says(log: Path, text: str) -> Callable[[], bool]:
    return lambda: log.exists() and text in log.read_text()


def test_a_standby_takes_over_from_a_killed_worker(
    source: Source, replica: Database, start: Start, tmp_path: Path
) -> None:
    first = start("first")
    until(says(tmp_path / "first", "active:"))
    start("second")
    until(says(tmp_path / "second", "standing by"))
    for n in range(1, 20):
        source.transaction(("c", "item", {"id": n, "n": 0}))
    until(has(replica, 1))
    first.kill()
    source.transaction(("c", "item", {"id": 100, "n": 0}))
    took = until(has(replica, 100))
    print(f"the standby applied after {took:.2f} s")
    assert took < 4
    assert len(replica.rows("item")) == 21


def test_a_restarted_worker_starts_at_once(source: Source, replica: Database, start: Start, tmp_path: Path) -> None:
    first = start("first")
    until(says(tmp_path / "first", "active:"))
    first.kill()
    source.transaction(("c", "item", {"id": 100, "n": 0}))
    start("second")
    took = until(has(replica, 100))
    print(f"the restarted worker applied after {took:.2f} s, its start included")
    assert took < 6


@pytest.mark.parametrize("replica_url", ["postgresql", "mariadb", "mysql"], indirect=True)
def test_a_worker_suspended_inside_its_transaction_holds_nobody(
    source: Source, replica: Database, start: Start, tmp_path: Path
) -> None:
    first = start("first")
    until(says(tmp_path / "first", "active:"))
    second = start("second")
    with replica.engine.connect() as other:
        # The worker waits for this row, inside its transaction.
        other.execute(sa.text("UPDATE item SET n = 7 WHERE id = 0"))
        source.transaction(("u", "item", {"id": 0, "n": 1}))
        wait_until_something_waits(replica.engine)
        first.send(signal.SIGSTOP)
        other.rollback()
    source.transaction(("c", "item", {"id": 1, "n": 0}))
    took = until(has(replica, 1))
    print(f"the standby applied after {took:.2f} s")
    assert took < 10
    first.send(signal.SIGCONT)
    source.transaction(("c", "item", {"id": 2, "n": 0}))
    until(has(replica, 2))
    assert replica.rows("item", "id", "n") == [(0, 1), (1, 0), (2, 0)]
    assert second.terminate() == 0
    source.transaction(("c", "item", {"id": 3, "n": 0}))
    until(has(replica, 3))
    assert first.terminate() == 0


@pytest.mark.parametrize("replica_url", ["postgresql", "mariadb"], indirect=True)
def test_a_worker_whose_connections_fall_silent(source: Source, settings: Settings, replica: Database) -> None:
    port = replica.engine.url.port
    assert port is not None
    with silent_proxy(port) as proxy:
        through = replica.engine.url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        options = ReplicaSettings(url=through, lease_ms=2_000)
        with running_worker(settings.model_copy(update={"replicas": {NAME: options}})) as worker:
            worker.until(lambda progress: progress.active)
            proxy.silence()
            source.transaction(("c", "item", {"id": 1, "n": 0}))
            took = until(has(replica, 1))
    print(f"the worker itself applied after {took:.2f} s")
    assert took < 25
