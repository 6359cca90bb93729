"""A BEGIN or END is found where it was sent first, however far before."""

from __future__ import annotations

import pytest

from rowcast.consumer.reading import topic_metadata, transaction_lookup
from rowcast.consumer.reading.transaction_lookup import was_sent_before
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.messages import TransactionEvent, parse_transaction
from support.memory_consumer import MemoryBroker
from support.memory_topics import MemorySource

SETTINGS = Settings(source="shop", kafka={"bootstrap.servers": "memory"})
PARTITION = ("shop.transaction", 0)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[TransactionEvent]:
    """Return the 100 records of fifty transactions."""
    source = MemorySource()
    for _ in range(50):
        source.put()
    broker = MemoryBroker(source)
    monkeypatch.setattr(topic_metadata, "new_consumer", broker.new_consumer)
    monkeypatch.setattr(transaction_lookup, "_FIRST_LOOK", 3)
    monkeypatch.setattr(transaction_lookup, "_NEXT_LOOK_FACTOR", 2)
    return [parse_transaction(message.value() or b"") for message in source.log[PARTITION]]


@pytest.mark.parametrize("place", [0, 1, 50, 98, 99])
def test_every_earlier_record_is_found(events: list[TransactionEvent], place: int) -> None:
    assert was_sent_before(SETTINGS, PARTITION, 100, events[place])


def test_records_that_were_never_sent(events: list[TransactionEvent]) -> None:
    seen = events[40]
    assert not was_sent_before(SETTINGS, PARTITION, 100, TransactionEvent(seen.status, "other", 0, seen.lsn))
    assert not was_sent_before(SETTINGS, PARTITION, 100, TransactionEvent("END", seen.id, 0, seen.lsn))
    assert not was_sent_before(SETTINGS, PARTITION, 100, TransactionEvent(seen.status, seen.id, 0, 0))
    assert not was_sent_before(SETTINGS, PARTITION, 40, seen)


def test_looking_back_has_a_limit(events: list[TransactionEvent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_lookup, "_MAX_LOOK", 20)
    assert was_sent_before(SETTINGS, PARTITION, 100, events[85])
    assert not was_sent_before(SETTINGS, PARTITION, 100, events[0])
