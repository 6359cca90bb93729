"""Each event takes effect once, even if workers are killed, stopped or replaced."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.status.workers import group_id
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import FencedError
from servers import Broker
from servers.guard import Guard
from support.kafka_source import Source, column, shape
from support.worker_process import WorkerProcess
from support.worker_runs import NAME, Database, settings_for, work_once
from support.written_rows import audit

pytestmark = pytest.mark.shared_dialect

ITEM = shape("item", column("n"))
NOTE = shape("note", column("item_id"), refers=[("item_id", "item")])


@pytest.fixture
def replica(replica_url: str) -> Database:
    return Database(replica_url)


@pytest.fixture
def settings(kafka: Broker, source_name: str, replica_url: str) -> Settings:
    settings = settings_for(source_name, kafka.bootstrap_servers, replica_url, batch_events=100)
    # A short session timeout, so that Kafka soon replaces a killed worker.
    soon = {"session.timeout.ms": 800, "heartbeat.interval.ms": 200}
    return settings.model_copy(update={"kafka": settings.kafka | soon})


@pytest.fixture
def source(kafka: Broker, source_name: str) -> Source:
    return Source(kafka.bootstrap_servers, source_name, partitions=2)


Start = Callable[[], WorkerProcess]


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Start worker processes, and kill them at the end of the test."""
    started: list[WorkerProcess] = []
    guard = Guard()

    def make() -> WorkerProcess:
        started.append(WorkerProcess(settings, tmp_path / "worker.log", guard))
        return started[-1]

    yield make
    for process in started:
        if process.runs:
            process.kill()
    guard.close()


def until(condition: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def epoch(replica: Database) -> int:
    return int(replica.rows("rowcast_replica", "epoch")[0][0])


def members(settings: Settings) -> int:
    """Return the number of workers in the replica's group."""
    group = group_id(settings.source, NAME)
    admin = AdminClient({"bootstrap.servers": settings.kafka["bootstrap.servers"]})
    return len(admin.describe_consumer_groups([group])[group].result(60).members)


@pytest.mark.campaign
def test_a_worker_killed_at_any_moment(
    source: Source, settings: Settings, replica: Database, start: Start, campaign: bool
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    source.add(ITEM, NOTE)
    work_once(settings)
    audit(replica)
    enough = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not enough.is_set():
            n = written
            lines: list[Any] = [("c", "item", {"id": 2 * n, "n": n}), ("c", "item", {"id": 2 * n + 1, "n": n})]
            lines += [("c", "note", {"id": n, "item_id": 2 * n})]
            lines += [("d", "note", {"id": n - 1})] if n % 3 == 1 else []
            source.put(*lines)
            written += 1
            if n % 5 == 0:
                time.sleep(0.02)
        source.flush()

    writer = threading.Thread(target=write)
    writer.start()
    applied = []
    try:
        for _ in range(25 if campaign else 3):
            before = epoch(replica)
            worker = start()
            until(lambda before=before: epoch(replica) > before)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 1.5 if campaign else 0.5))
            worker.kill()
            applied.append(len(replica.rows("audit")))
    finally:
        enough.set()
        writer.join()
    work_once(settings)
    print(f"{written} transactions; applied when killed: {applied}")
    assert [row[0] for row in replica.rows("item", "id")] == sorted(range(2 * written), key=repr)
    assert len(replica.rows("note")) == written - len([n for n in range(written) if n % 3 == 1])
    noted = [row[0] for row in replica.rows("audit")]
    assert len(noted) == len(set(noted)) == 2 * written


def test_a_worker_that_was_stopped_and_wakes_up_writes_nothing(
    source: Source, settings: Settings, replica: Database, start: Start, tmp_path: Path
) -> None:
    source.add(ITEM, NOTE)
    work_once(settings)
    audit(replica)
    first = start()
    source.transaction(("c", "item", {"id": 1, "n": 0}))
    until(lambda: replica.rows("item", "id") == [(1,)])
    second = start()
    until(lambda: members(settings) == 2)
    first.send(signal.SIGSTOP)
    source.transaction(("u", "item", {"id": 1, "n": 1}), ("c", "item", {"id": 2, "n": 0}))
    until(lambda: len(replica.rows("item")) == 2)
    source.transaction(("u", "item", {"id": 1, "n": 2}))
    until(lambda: replica.rows("item", "id", "n") == [(1, 2), (2, 0)])
    log = tmp_path / "worker.log"
    said = log.read_text().count("standing by")
    first.send(signal.SIGCONT)
    # The first worker would write at once what it has read before it was stopped.
    until(lambda: log.read_text().count("standing by") > said)
    source.transaction(("c", "item", {"id": 3, "n": 0}))
    until(lambda: len(replica.rows("item")) == 3)
    assert first.runs
    assert sorted(row[0] for row in replica.rows("audit")) == [1, 1, 1, 2, 3]
    # The first worker stands by, and takes over again.
    assert second.terminate() == 0
    source.transaction(("c", "item", {"id": 4, "n": 0}))
    until(lambda: len(replica.rows("item")) == 4)
    assert first.terminate() == 0


def test_a_fenced_workers_rows_roll_back(replica: Database, replica_url: str, settings: Settings) -> None:
    layouts = RowLayouts()
    layouts.add(ITEM.version, ITEM)
    layout = layouts.find("public.item", ITEM.version)
    assert layout is not None

    def run(id: int, offset: int) -> Run:
        partition = ("t", 0)
        change = Change(layout, b'{"id":%d}' % id, b'{"id":%d,"n":0}' % id, offset, "1", 0, partition, offset)
        return Run([Transaction("1", offset, 0, [change], {partition: Position(offset + 1, offset)})])

    options = settings.replicas[NAME]
    first, second = (Replica("shop", NAME, options, layouts) for _ in range(2))
    try:
        first.take_over()
        first.prepare()
        first.apply(run(1, 1))
        state, reached = second.take_over()
        assert (state.epoch, reached) == (2, {("t", 0): Position(2, 1)})
        with pytest.raises(FencedError):
            first.apply(run(2, 2))
        second.apply(run(3, 2))
        with pytest.raises(FencedError):
            first.become_consistent()
    finally:
        first.close()
        second.close()
    assert [row[0] for row in replica.rows("item", "id")] == [1, 3]
    assert replica.rows("rowcast_position", "next_offset", "lsn") == [(3, 2)]
