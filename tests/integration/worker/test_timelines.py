"""After a loss of the primary or of Kafka, and before the first snapshot ends, no replica counts as consistent."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from rowcast.consumer import checks, replica_status, verify
from rowcast.producer import Capture
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.outbox.snapshot_requests import SnapshotRequests, SnapshotState
from rowcast.producer.relay import Relay
from rowcast.producer.relay.snapshots.runner import SnapshotRunner
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError, SuspectError
from rowcast.shared.findings import Verdict
from servers import Broker
from support.rebuilds import rebuilt
from support.relay.chunk_gate import Gate
from support.relay.threads import running_thread, wait_until
from support.worker_runs import NAME, Database, RunningWorker, settings_for, work_once


@dataclass
class Bank:
    """Write accounts in an SQLite primary whose file can be copied and brought back."""

    path: Path
    source: str
    engine: sa.Engine = field(init=False)
    sessions: sessionmaker[Session] = field(init=False)

    def __post_init__(self) -> None:
        self.metadata = sa.MetaData()
        self.account = sa.Table(
            "account",
            self.metadata,
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("balance", sa.Integer),
        )
        self.open()

    def open(self) -> None:
        self.engine = open_engine(f"sqlite:///{self.path}", "primary", pooled=False)
        self.sessions = sessionmaker(self.engine)

    def capture(self) -> None:
        Capture(self.metadata, source=self.source).install(self.sessions)
        self.metadata.create_all(self.engine)

    def insert(self, *ids: int) -> None:
        with self.sessions.begin() as session:
            session.execute(sa.insert(self.account), [{"id": n, "balance": 100} for n in ids])

    def move(self, payer: int, payee: int, amount: int) -> None:
        row = self.account.c
        with self.sessions.begin() as session:
            for id_, change in ((payer, -amount), (payee, amount)):
                session.execute(sa.update(self.account).where(row.id == id_).values(balance=row.balance + change))

    def back_up(self) -> Path:
        with self.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(shutil.copy(self.path, self.path.with_suffix(".backup")))

    def restore(self, backup: Path) -> None:
        self.engine.dispose()
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        shutil.copy(backup, self.path)

    def rows(self) -> list[tuple[int, int]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.select(self.account).order_by(self.account.c.id))]


@pytest.fixture
def bank(tmp_path: Path, source_name: str) -> Iterator[Bank]:
    bank = Bank(tmp_path / "primary.db", source_name)
    yield bank
    bank.engine.dispose()


@pytest.fixture
def settings(bank: Bank, kafka: Broker, source_name: str, new_database: Callable[[str], str]) -> Settings:
    made = settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"), f"sqlite:///{bank.path}")
    return made.model_copy(update={"relay": RelaySettings(chunk_rows=3)})


def replica_of(settings: Settings) -> Database:
    return Database(settings.replicas[NAME].sqlalchemy_url.render_as_string(hide_password=False))


def assert_equal(settings: Settings, bank: Bank) -> None:
    status = replica_status(settings, NAME)
    assert (status.state, status.behind_ms) == ("consistent", 0)
    assert replica_of(settings).rows("account") == sorted(bank.rows(), key=repr)
    assert verify(settings, NAME).equal


def test_a_replica_is_loading_until_the_first_snapshot_is_complete(
    bank: Bank, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.metadata.create_all(bank.engine)
    bank.insert(*range(1, 21))
    bank.capture()
    bank.insert(21)
    gate = Gate(monkeypatch)
    requests = SnapshotRequests(outbox_tables(sa.MetaData()))

    def change(before: list[SnapshotState], after: SnapshotState) -> None:
        with bank.engine.begin() as connection:
            assert requests.change_state(connection, before, after) == 1

    with running_thread(Relay(settings, bank.engine)):
        gate.let_through()
        gate.wait_for(2)
        change([SnapshotState.requested, SnapshotState.running], SnapshotState.paused)
        gate.let_through()
    for _ in range(2):
        assert work_once(settings).state == "loading"
        assert 0 < len(replica_of(settings).rows("account")) < 21
        assert replica_status(settings, NAME).state == "loading"
    change([SnapshotState.paused], SnapshotState.running)
    worker = RunningWorker(settings)
    try:
        worker.until(lambda progress: progress.active and progress.state == "loading")
        gate.let_through(20)
        Relay(settings, bank.engine).run_once()
        worker.until(lambda progress: progress.state == "consistent")
    finally:
        worker.stop()
    assert_equal(settings, bank)


def test_a_table_with_rows_that_is_captured_later_makes_the_replica_load_again(bank: Bank, settings: Settings) -> None:
    bank.capture()
    bank.insert(1)
    Relay(settings, bank.engine).run_once()
    assert work_once(settings).state == "consistent"
    late = sa.Table("late", bank.metadata, sa.Column("id", sa.Integer, primary_key=True))
    with closing(sqlite3.connect(bank.path)) as uncaptured, uncaptured:
        uncaptured.execute("CREATE TABLE late (id INTEGER PRIMARY KEY)")
        uncaptured.executemany("INSERT INTO late VALUES (?)", [(n,) for n in range(10)])
    with bank.sessions.begin() as session:
        session.execute(sa.insert(late), [{"id": 10}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SnapshotRunner, "due", lambda _: None)
        Relay(settings, bank.engine).run_once()
    assert work_once(settings).state == "loading"
    Relay(settings, bank.engine).run_once()
    assert work_once(settings).state == "consistent"
    assert len(replica_of(settings).rows("late")) == 11


def test_a_table_without_snapshots_is_not_waited_for(bank: Bank, settings: Settings) -> None:
    bank.metadata.create_all(bank.engine)
    bank.insert(1, 2, 3)
    bank.capture()
    bank.insert(4)
    Relay(settings.model_copy(update={"relay": RelaySettings(snapshot="never")}), bank.engine).run_once()
    assert work_once(settings).state == "consistent"
    assert replica_of(settings).rows("account") == [(4, 100)]


def test_replicas_are_suspect_after_the_primary_was_restored_until_they_are_rebuilt(
    bank: Bank, settings: Settings
) -> None:
    bank.capture()
    bank.insert(1, 2, 3)
    Relay(settings, bank.engine).run_once()
    backup = bank.back_up()
    bank.move(1, 2, 40)
    bank.insert(4)
    Relay(settings, bank.engine).run_once()
    assert work_once(settings).state == "consistent"
    bank.restore(backup)
    bank.insert(5)
    bank.move(3, 2, 10)
    with pytest.raises(ConfigurationError, match=r"restored from a backup.*rowcast relay --new-timeline 2"):
        Relay(settings, bank.engine).run_once()
    # The replica has applied everything in the topics, but not what waits in the outbox.
    status = replica_status(settings, NAME)
    assert status.records == 0
    assert status.behind_ms > 0
    worker = RunningWorker(settings)
    worker.until(lambda progress: progress.active)
    Relay(settings, bank.engine, new_timeline=2).run_once()
    wait_until(lambda: worker.error is not None)
    assert isinstance(worker.error, SuspectError)
    # Nothing of the new timeline was applied.
    assert replica_of(settings).rows("account") == [(1, 60), (2, 140), (3, 100), (4, 100)]
    for _ in range(2):
        status = replica_status(settings, NAME)
        assert status.state == "suspect"
        assert "the source is on timeline 2, and the replica on timeline 1" in str(status.reason)
        assert any(f.verdict is Verdict.missing and "suspect" in f.message for f in checks.replicas(settings))
        with pytest.raises(SuspectError, match=f"rowcast rebuild {NAME}"):
            work_once(settings)
    rebuilt(settings, is_verified=True)
    assert work_once(settings).state == "consistent"
    assert_equal(settings, bank)
    assert bank.rows() == [(1, 100), (2, 110), (3, 90), (5, 100)]
    bank.move(1, 2, 1)
    Relay(settings, bank.engine).run_once()
    assert work_once(settings).state == "consistent"
    assert_equal(settings, bank)


def test_a_replica_that_was_away_during_the_restore_is_suspect(bank: Bank, settings: Settings) -> None:
    bank.capture()
    bank.insert(1)
    Relay(settings, bank.engine).run_once()
    backup = bank.back_up()
    bank.insert(2)
    Relay(settings, bank.engine).run_once()
    work_once(settings)
    bank.restore(backup)
    Relay(settings, bank.engine, new_timeline=2).run_once()
    with pytest.raises(SuspectError):
        work_once(settings)
    assert replica_status(settings, NAME).state == "suspect"


def test_replicas_are_suspect_after_kafka_has_lost_events(bank: Bank, settings: Settings) -> None:
    bank.capture()
    bank.insert(1)
    Relay(settings, bank.engine).run_once()
    work_once(settings)
    # The events of these lsns were committed in Kafka, and are not there now.
    with bank.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE rowcast_lease SET next_lsn = 41, published_lsn = 40")
    with pytest.raises(ConfigurationError, match=r"may be new or restored.*--new-timeline 2"):
        Relay(settings, bank.engine).run_once()
    needed = settings.model_copy(update={"relay": RelaySettings(snapshot="when_needed")})
    Relay(needed, bank.engine).run_once()
    with pytest.raises(SuspectError):
        work_once(settings)
    assert replica_status(settings, NAME).state == "suspect"
    rebuilt(settings, is_verified=True)
    work_once(settings)
    assert_equal(settings, bank)
