"""A worker keeps to its schedule, applies nothing that is too young, and not more than its rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from rowcast.consumer import replica_status, run_worker
from rowcast.consumer.status.replicas import replicas
from rowcast.shared.config.settings import Settings
from servers import Broker
from support.kafka_source import Source, column, shape
from support.worker_runs import NAME, Database, running_worker, settings_for, work_once

ITEM = shape("item", column("n"))
PATIENCE_S = 30.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class World:
    """A replica on PostgreSQL or another engine, with rows that arrive one transaction each."""

    def __init__(self, url: str, kafka: Broker, name: str, **options: Any) -> None:
        self.settings: Settings = settings_for(name, kafka.bootstrap_servers, url, **options)
        self.replica = Database(url)
        self.source = Source(kafka.bootstrap_servers, name)
        self.source.add(ITEM)
        self.rows = 0

    def commit(self, count: int = 1) -> None:
        for _ in range(count):
            self.rows += 1
            self.source.put(("c", "item", {"id": self.rows, "n": 0}))
        self.source.flush()

    def applied(self) -> int:
        return len(self.replica.rows("item", "id"))

    def sessions(self) -> int:
        """Return the number of the worker's connections to the database."""
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        with self.replica.engine.connect() as connection:
            return int(connection.scalar(sa.text(f"SELECT count(*) FROM pg_stat_activity WHERE {others}")) or 0)


def test_a_scheduled_worker_rests_without_a_connection_and_catches_up_again(
    new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    world = World(new_database("postgresql"), kafka, source_name, schedule="2s")
    world.commit()
    # Two workers take turns as one of them finishes first.
    with running_worker(world.settings) as worker, running_worker(world.settings):
        until(lambda: worker.progress.transactions > 0 or replica_status(world.settings, NAME).lsn > 0)
        until(lambda: world.sessions() == 0)
        assert world.applied() == 1
        world.commit()
        assert world.applied() == 1
        until(lambda: world.applied() == 2)
        status = replica_status(world.settings, NAME)
        assert (status.state, status.workers) == ("consistent", 2)
        shown = replicas(world.settings, 60.0)
        assert ("pace", "catches up at 2s") in shown.blocks[0].lines


def test_a_worker_with_cron_waits_for_its_time_and_stops_at_once(
    new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    world = World(new_database("sqlite"), kafka, source_name, schedule="0 0 29 2 *")
    world.commit()
    stop = threading.Event()
    worker = threading.Thread(target=run_worker, args=(world.settings, NAME), kwargs={"stop": stop})
    worker.start()
    time.sleep(0.5)
    assert "item" not in world.replica.tables()
    began = time.monotonic()
    stop.set()
    worker.join(PATIENCE_S)
    assert time.monotonic() - began < 5
    # Someone who cannot wait runs it by hand.
    work_once(world.settings)
    assert world.applied() == 1


@pytest.mark.parametrize("engine", ["postgresql", "sqlite"])
def test_a_delayed_replica_never_shows_what_is_too_young(
    engine: str, new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    url = new_database(engine)
    world = World(url, kafka, source_name)
    world.commit()
    work_once(world.settings)
    delayed = settings_for(source_name, kafka.bootstrap_servers, url, lag="2s")
    began = time.time()
    world.commit(2)
    work_once(delayed)
    assert world.applied() == 1
    with running_worker(delayed) as worker:
        worker.until(lambda progress: progress.active)
        while (seen := world.applied()) == 1:
            assert time.time() < began + PATIENCE_S
            time.sleep(0.02)
        assert time.time() >= began + 2.0
        assert seen == 3
        assert worker.progress.state == "consistent"
        # A problem is only what is older than the lag.
        world.commit()
        time.sleep(0.05)
        shown = replicas(delayed, 0.0)
        assert not shown.problems
        assert ("pace", "applies nothing younger than 2.0 s") in shown.blocks[0].lines
        assert replicas(settings_for(source_name, kafka.bootstrap_servers, url), 0.0).problems


def test_a_worker_applies_no_more_than_its_rate(
    new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    world = World(new_database("sqlite"), kafka, source_name, max_rate=100)
    world.commit()
    work_once(world.settings)
    world.commit(250)
    began = time.monotonic()
    with running_worker(world.settings) as worker:
        until(lambda: worker.progress.events == 250)
        # A hundred at once, and again after each second.
        assert time.monotonic() - began >= 2.0
    assert world.applied() == 251
