"""A worker starts soon, however many tables the replica has, so that a killed worker is replaced soon."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from fixtures.databases import ENGINES, NewDatabase
from rowcast.consumer.replica import positions
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.worker_tables import create_tables
from servers import Broker
from servers.guard import Guard
from support.direct_replica import direct_replica
from support.kafka_source import Source, column, shape
from support.worker_process import WorkerProcess
from support.worker_runs import Database, settings_for, work_once


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count the connections and statements of all engines until the block ends."""
    counts = {"connections": 0, "statements": 0}

    def connect(*_: object) -> None:
        counts["connections"] += 1

    def execute(*_: object) -> None:
        counts["statements"] += 1

    listeners = (("connect", connect), ("before_cursor_execute", execute))
    for name, listener in listeners:
        sa.event.listen(sa.Engine, name, listener)
    try:
        yield counts
    finally:
        for name, listener in listeners:
            sa.event.remove(sa.Engine, name, listener)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_start_needs_few_statements_for_each_table(engine: str, new_database: NewDatabase) -> None:
    statements = []
    for tables in (2, 12):
        parents = [shape(f"parent{n}", column("n"), unique=[("n",)]) for n in range(tables // 2)]
        children = [shape(f"child{n}", column("p"), refers=[("p", f"parent{n}")]) for n in range(tables // 2)]
        with direct_replica(new_database(engine), *parents, *children) as direct, counted() as counts:
            direct.restart()
            assert direct.replica.state == "consistent"
        statements.append(counts["statements"])
        # Each connection of MariaDB and MySQL reads the certificates of the system, in 30 ms.
        assert counts["connections"] <= 4
    # SQLite answers without a server.
    most = {"postgresql": 0, "sqlite": 14}.get(engine, 3)
    assert (statements[1] - statements[0]) / 10 <= most


def test_a_worker_that_is_killed_again_and_again_makes_progress(
    campaign: bool, new_database: NewDatabase, kafka: Broker, source_name: str, tmp_path: Path
) -> None:
    kills, seconds = (10, 10.0) if campaign else (2, 0.1)
    url, source, guard = new_database("postgresql"), Source(kafka.bootstrap_servers, source_name), Guard()
    settings, replica = settings_for(source_name, kafka.bootstrap_servers, url), Database(url)
    source.add(shape("item", column("n")))
    work_once(settings)
    lsns = [replica.rows("rowcast_replica", "lsn")[0][0]]
    for kill in range(kills):
        process = WorkerProcess(settings, tmp_path / f"worker{kill}", guard)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or replica.rows("rowcast_replica", "lsn") == [(lsns[-1],)]:
            source.transaction(("u", "item", {"id": 1, "n": source.lsn}))
            assert process.runs
            assert time.monotonic() < ends + 30
        process.send(signal.SIGKILL)
        process.kill()
        lsns.append(replica.rows("rowcast_replica", "lsn")[0][0])
    guard.close()
    assert lsns == sorted(set(lsns))
    work_once(settings)
    assert replica.rows("rowcast_replica", "lsn") == [(source.lsn,)]


@pytest.mark.parametrize("engine", ENGINES)
def test_two_workers_that_wait_for_the_first_topics_register_at_the_same_time(
    engine: str, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(new_database(engine))
    create_tables(database.engine, replica_dialect(engine))
    # Each worker has looked before the other has inserted.
    monkeypatch.setattr(positions, "read_row", lambda *_: None)
    for owner in ("first", "second"):
        with database.engine.begin() as connection:
            positions.register(connection, "shop", owner)
    assert database.rows("rowcast_replica", "source", "owner") == [("shop", "first")]
