"""The lag counts the records after the replica's positions, and the age of the first unapplied transaction."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from rowcast.consumer import ReplicaStatus, checks, replica_status
from rowcast.consumer.checks import retention
from rowcast.consumer.events.position import Position
from rowcast.consumer.reading import topic_metadata
from rowcast.consumer.replica import positions
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.positions import LastApplied, Positions
from rowcast.consumer.replica.worker_tables import create_tables
from rowcast.consumer.status import lag
from rowcast.consumer.status.workers import Member
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from support.kafka_source import column, shape
from support.memory_consumer import MemoryBroker
from support.memory_topics import MemorySource

TABLE, TRANSACTIONS = ("shop.public.a", 0), ("shop.transaction", 0)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """Publish two transactions with an event each."""
    source = MemorySource()
    source.add(shape("a", column("n")))
    for key in (1, 2):
        source.put(("c", "a", {"id": key, "n": 0}))
    broker = MemoryBroker(source)
    monkeypatch.setattr(topic_metadata, "new_consumer", broker.new_consumer)
    monkeypatch.setattr(lag, "group_members", lambda *_: (Member("127.0.0.1"),))
    return broker


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        source="shop",
        kafka={"bootstrap.servers": "memory"},
        replicas={"copy": ReplicaSettings(url=f"sqlite:///{tmp_path}/copy.db")},
    )


def apply_up_to(settings: Settings, events: int, records: int, lsn: int) -> None:
    """Write a worker's positions: ``events`` in the table's topic and ``records`` in the transaction topic."""
    engine = sa.create_engine(settings.replicas["copy"].sqlalchemy_url)
    create_tables(engine, replica_dialect("sqlite"))
    with engine.connect() as connection:
        with connection.begin():
            row = positions.take_over(connection, "shop", "worker-1")
        own = Positions("shop", row.epoch, row.stamp, replica_dialect("sqlite"))
        with own.transaction(connection, LastApplied(lsn, "701", 5)):
            own.finish(connection, {TABLE: Position(events, lsn), TRANSACTIONS: Position(records, lsn)})
    engine.dispose()


def test_a_replica_without_a_worker_has_no_state(broker: MemoryBroker, settings: Settings) -> None:
    assert replica_status(settings, "copy") == ReplicaStatus("copy", None)
    with pytest.raises(ConfigurationError, match="no replica 'other'"):
        replica_status(settings, "other")


def test_a_replica_without_an_event_waits_in_every_report(
    broker: MemoryBroker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only a real server has settings to read.
    monkeypatch.setattr(retention, "_configs", lambda *_: {})
    apply_up_to(settings, events=0, records=0, lsn=0)
    engine = sa.create_engine(settings.replicas["copy"].sqlalchemy_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE rowcast_replica SET state = 'consistent'")
    engine.dispose()
    status = replica_status(settings, "copy")
    assert (status.state, status.records) == ("waiting", 6)
    assert "waiting: nothing has been applied yet" in [finding.message for finding in checks.replicas(settings)]


def test_records_after_the_positions_are_counted(broker: MemoryBroker, settings: Settings) -> None:
    apply_up_to(settings, events=1, records=2, lsn=4)
    status = replica_status(settings, "copy")
    assert (status.state, status.owner, status.lsn, status.tx, status.applied_ts_ms) == (
        "loading", "worker-1", 4, "701", 5,
    )  # fmt: skip
    assert {lag.topic: lag.records for lag in status.topics} == {"shop.public.a": 1, "shop.transaction": 2}
    assert status.records == 3
    assert 0 <= status.behind_ms < 60_000


def test_deleted_records_are_not_counted(broker: MemoryBroker, settings: Settings) -> None:
    apply_up_to(settings, events=0, records=0, lsn=0)
    broker.first_offsets |= {TABLE: 1, TRANSACTIONS: 3}
    assert replica_status(settings, "copy").records == 2


def test_a_replica_that_has_applied_everything_is_not_behind(broker: MemoryBroker, settings: Settings) -> None:
    time.sleep(0.01)
    apply_up_to(settings, events=2, records=4, lsn=7)
    status = replica_status(settings, "copy")
    assert (status.records, status.behind_ms) == (0, 0)
