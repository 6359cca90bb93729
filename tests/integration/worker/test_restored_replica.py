"""A replica that changes under a running worker, by a failover or a restore, is followed from its own positions."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import default

from rowcast.consumer.replica import applier
from rowcast.consumer.worker import apply_loop
from servers import Broker
from support.kafka_source import Source, column, shape
from support.worker_runs import Database, RunningWorker, settings_for

pytestmark = pytest.mark.shared_dialect

ITEM = shape("item", column("n"))
LATER = shape("later", column("n"))
SAVED = ("item", "rowcast_replica", "rowcast_position", "rowcast_table")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_loop, "_COMPARE_S", 0.2)


@pytest.fixture
def source(kafka: Broker, source_name: str) -> Source:
    return Source(kafka.bootstrap_servers, source_name)


@pytest.fixture
def replica(replica_url: str) -> Database:
    return Database(replica_url)


@pytest.fixture
def worker(source: Source, kafka: Broker, replica_url: str) -> Iterator[RunningWorker]:
    """Run a worker that has applied two rows and is consistent."""
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 1, "n": 1}), ("c", "item", {"id": 2, "n": 1}))
    worker = RunningWorker(settings_for(source.name, kafka.bootstrap_servers, replica_url))
    worker.until(lambda p: p.state == "consistent")
    yield worker
    worker.stop()


def until(condition: Callable[[], bool], worker: RunningWorker, timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert worker.error is None, worker.error
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ids(replica: Database) -> list[int]:
    return [row[0] for row in replica.rows("item", "id")]


def save(replica: Database) -> None:
    replica.execute(*(f"CREATE TABLE saved_{name} AS SELECT * FROM {name}" for name in SAVED))


def restore(replica: Database, *more: str) -> None:
    """Bring the saved state back, in one transaction."""
    back = [s for name in SAVED for s in (f"DELETE FROM {name}", f"INSERT INTO {name} SELECT * FROM saved_{name}")]
    replica.execute(*back, *more)


@pytest.mark.parametrize("behind", [False, True], ids=["idle", "events follow"])
def test_lost_transactions_are_applied_again(
    source: Source, replica: Database, worker: RunningWorker, behind: bool
) -> None:
    save(replica)
    source.transaction(("c", "item", {"id": 3, "n": 1}), ("u", "item", {"id": 1, "n": 2}), ("d", "item", {"id": 2}))
    until(lambda: ids(replica) == [1, 3], worker)
    restore(replica)
    if behind:
        source.transaction(("c", "item", {"id": 4, "n": 1}))
    expected = [(1, 2), (3, 1), *([(4, 1)] if behind else [])]
    until(lambda: replica.rows("item") == expected, worker)
    assert replica.state() == "consistent"


def test_a_restored_replica_with_the_epoch_of_this_worker(
    source: Source, replica: Database, worker: RunningWorker
) -> None:
    """Another worker has taken over a restored replica of the epoch before, and has gone again."""
    save(replica)
    source.transaction(("c", "item", {"id": 3, "n": 1}))
    until(lambda: ids(replica) == [1, 2, 3], worker)
    restore(replica, "UPDATE rowcast_replica SET stamp = 5, owner = 'other'")
    source.transaction(("c", "item", {"id": 4, "n": 1}))
    until(lambda: ids(replica) == [1, 2, 3, 4], worker)


def test_a_replica_that_has_lost_everything_loads_again(
    source: Source, replica: Database, worker: RunningWorker
) -> None:
    replica.execute(*(f"DELETE FROM {name}" for name in ("item", "rowcast_position", "rowcast_replica")))
    until(lambda: replica.rows("item") == [(1, 1), (2, 1)] and replica.state() == "consistent", worker)


def test_a_replica_of_a_time_before_its_tables(source: Source, replica: Database, worker: RunningWorker) -> None:
    """The restored database is empty."""
    replica.execute(*(f"DROP TABLE {name}" for name in SAVED))
    source.transaction(("c", "item", {"id": 3, "n": 1}))
    until(lambda: "item" in replica.tables(), worker)
    until(lambda: ids(replica) == [1, 2, 3], worker)


def test_a_table_that_the_restored_replica_lacks(source: Source, replica: Database, worker: RunningWorker) -> None:
    save(replica)
    source.add(LATER)
    source.transaction(("c", "later", {"id": 1, "n": 1}))
    until(lambda: "later" in replica.tables() and replica.rows("later") == [(1, 1)], worker)
    restore(replica, "DROP TABLE later")
    source.transaction(("c", "later", {"id": 2, "n": 1}))
    until(lambda: "later" in replica.tables() and replica.rows("later") == [(1, 1), (2, 1)], worker)


def test_a_commit_without_an_answer_takes_effect_once(
    source: Source, replica: Database, worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standby has the transaction, and the worker has no answer."""
    commit, write = default.DefaultDialect.do_commit, applier.Applier._upsert
    armed = False

    def upsert(*arguments: Any) -> None:
        nonlocal armed
        write(*arguments)
        armed = True

    def lose_answer(dialect: Any, connection: Any) -> None:
        nonlocal armed
        commit(dialect, connection)  # type: ignore[no-untyped-call]
        if armed:
            monkeypatch.undo()
            raise dialect.loaded_dbapi.InterfaceError("the connection is gone")

    monkeypatch.setattr(applier.Applier, "_upsert", upsert)
    monkeypatch.setattr(default.DefaultDialect, "do_commit", lose_answer)
    source.transaction(("u", "item", {"id": 1, "n": 2}))
    source.transaction(("u", "item", {"id": 1, "n": 3}), ("c", "item", {"id": 3, "n": 1}))
    until(lambda: replica.rows("item") == [(1, 3), (2, 1), (3, 1)], worker)
    assert armed
    until(lambda: replica.rows("rowcast_replica", "epoch") == [(2,)], worker)


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("gone_for_s", [0, 0.5])
def test_a_file_that_was_replaced(source: Source, kafka: Broker, tmp_path: Path, mode: str, gone_for_s: float) -> None:
    """A connection to a replaced file of SQLite would write to a file without a name."""
    file, saved = tmp_path / "replica.db", tmp_path / "saved.db"
    with sqlite3.connect(file) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.close()
    replica = Database(f"sqlite:///{file}")
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    worker = RunningWorker(settings_for(source.name, kafka.bootstrap_servers, f"sqlite:///{file}"))
    try:
        worker.until(lambda p: p.state == "consistent")
        with sqlite3.connect(file) as origin, sqlite3.connect(saved) as copy:
            origin.backup(copy)
        origin.close()
        copy.close()
        source.transaction(("c", "item", {"id": 2, "n": 1}))
        until(lambda: ids(replica) == [1, 2], worker)
        for path in tmp_path.glob("replica.db*"):
            path.unlink()
        time.sleep(gone_for_s)
        shutil.copy(saved, tmp_path / "new.db")
        os.replace(tmp_path / "new.db", file)
        until(lambda: ids(replica) == [1, 2], worker)
        source.transaction(("c", "item", {"id": 3, "n": 1}))
        until(lambda: ids(replica) == [1, 2, 3], worker)
    finally:
        worker.stop()
