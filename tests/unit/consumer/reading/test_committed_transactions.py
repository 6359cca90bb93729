"""A committed reader finds the lsn up to which Kafka has committed the transaction topic."""

from __future__ import annotations

import pytest

from rowcast.consumer.reading import committed_transactions
from rowcast.consumer.reading.committed_transactions import CommittedTransactions
from rowcast.shared.config.settings import Settings
from support.kafka_source import column, shape
from support.memory_consumer import MemoryBroker
from support.memory_topics import MemorySource

TRANSACTIONS = ("shop.transaction", 0)
SETTINGS = Settings(source="shop", kafka={"bootstrap.servers": "memory"})


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """Publish three transactions, whose ENDs have the lsns 4, 7 and 10."""
    source = MemorySource()
    source.add(shape("a", column("n")))
    for key in (1, 2, 3):
        source.put(("c", "a", {"id": key, "n": 0}))
    broker = MemoryBroker(source)
    monkeypatch.setattr(committed_transactions, "new_consumer", broker.new_consumer)
    return broker


def test_only_committed_records_count(broker: MemoryBroker) -> None:
    broker.committed[TRANSACTIONS] = 4
    committed = CommittedTransactions(SETTINGS, TRANSACTIONS, 0, 6)
    assert committed.include(4)
    assert committed.include(7)
    assert not committed.include(8)
    broker.committed[TRANSACTIONS] = 5
    assert committed.include(8)
    assert not committed.include(10)
    broker.committed.clear()
    assert committed.include(10)


def test_it_starts_a_little_before_the_last_record(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committed_transactions, "_LOOK_BACK", 2)
    broker.committed[TRANSACTIONS] = 3
    assert not CommittedTransactions(SETTINGS, TRANSACTIONS, 0, 6).include(1)
    assert CommittedTransactions(SETTINGS, TRANSACTIONS, 0, 4).include(5)
    broker.first_offsets[TRANSACTIONS] = 3
    assert not CommittedTransactions(SETTINGS, TRANSACTIONS, 3, 4).include(1)
