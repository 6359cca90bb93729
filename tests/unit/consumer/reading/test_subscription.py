"""The subscription follows every partition of the wanted topics, each from the replica's position."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rowcast.consumer.events.position import Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading import subscription, topic_metadata
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.subscription import Subscription
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from support.kafka_source import column, shape
from support.memory_consumer import MemoryBroker
from support.memory_topics import MemorySource

A = shape("a", column("n"))
SETTINGS = Settings(source="shop", kafka={"bootstrap.servers": "memory"})
TABLE, TRANSACTIONS, SCHEMAS = "shop.public.a", "shop.transaction", "shop.schema"


@pytest.fixture
def broker() -> MemoryBroker:
    """Create two partitions of a table, and a transaction topic with two ENDs."""
    source = MemorySource(partitions=2)
    source.add(A)
    for key in (1, 2):
        source.put(("c", "a", {"id": key, "n": 0}))
    return MemoryBroker(source)


def subscribe(broker: MemoryBroker, **positions: int) -> Subscription:
    layouts = RowLayouts()
    layouts.add(A.version, A)
    found = {(TRANSACTIONS if t == "transactions" else TABLE, 0): Position(n, n) for t, n in positions.items()}
    consumer, asker = (broker.new_consumer({}, "worker", {}) for _ in range(2))
    return Subscription(ReaderContext(SETTINGS, layouts, found), consumer, asker)


def test_each_partition_begins_at_the_position_of_the_replica(broker: MemoryBroker) -> None:
    found = subscribe(broker, transactions=2)
    offsets = {partition: stream.next_offset for partition, stream in found.streams.items()}
    assert offsets == {(TABLE, 0): 0, (TABLE, 1): 0, (TRANSACTIONS, 0): 2, (SCHEMAS, 0): 0}
    assert found.streams[TRANSACTIONS, 0].target == 4
    assert not found.lost_ends


def test_streams_are_found_by_kind_and_by_table(broker: MemoryBroker) -> None:
    found = subscribe(broker)
    assert [s.partition for s in found.streams_of_kind("transaction")] == [(TRANSACTIONS, 0)]
    assert sorted(s.partition for s in found.streams_of_table("public.a")) == [(TABLE, 0), (TABLE, 1)]
    assert found.streams_of_table("public.other") == []


def test_deleted_ends_are_noticed(broker: MemoryBroker) -> None:
    broker.first_offsets[TRANSACTIONS, 0] = 3
    assert subscribe(broker, transactions=2).lost_ends
    assert not subscribe(broker).lost_ends


def test_a_topic_that_ends_before_the_position_was_created_again(broker: MemoryBroker) -> None:
    with pytest.raises(DataError, match=r"shop\.transaction.*offset 99.*ends at 4.*Rebuild the replica"):
        subscribe(broker, transactions=99)


def test_a_table_topic_that_begins_after_the_position_has_lost_events(broker: MemoryBroker) -> None:
    source = broker.source
    for key in range(10):
        source.put(("c", "a", {"id": key, "n": 0}))
    broker.first_offsets[TABLE, 0] = 2
    with pytest.raises(
        DataError, match=r"shop\.public\.a, partition 0, offset 1 was.*begins at 2 now: 1 offsets.*snapshot"
    ):
        subscribe(broker, table=1)
    assert subscribe(broker, table=2).streams[TABLE, 0].next_offset == 2


def test_a_new_replica_is_warned_of_a_table_topic_without_its_beginning(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.first_offsets[TABLE, 0] = 1
    assert subscribe(broker).streams[TABLE, 0].next_offset == 1
    assert "topic shop.public.a, partition 0 begins at offset 1: the replica lacks rows" in caplog.text


def test_a_topic_with_fewer_partitions_was_created_again(broker: MemoryBroker) -> None:
    del broker.source.log[TABLE, 1]
    layouts = RowLayouts()
    layouts.add(A.version, A)
    consumer, asker = (broker.new_consumer({}, "worker", {}) for _ in range(2))
    with pytest.raises(DataError, match=r"shop\.public\.a has no partition 1.*created again.*Rebuild"):
        Subscription(ReaderContext(SETTINGS, layouts, {(TABLE, 1): Position(0, 0)}), consumer, asker)


def test_a_schema_topic_that_was_created_again_is_read_from_its_beginning(broker: MemoryBroker) -> None:
    found = subscribe(broker)
    found.streams[SCHEMAS, 0].next_offset = 99
    found.restart(found.streams[SCHEMAS, 0])
    assert found.streams[SCHEMAS, 0].next_offset == 0


def test_a_topic_is_awaited_for_the_time_of_grace(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(subscription, "time", SimpleNamespace(monotonic=lambda: now))
    broker.hidden.add(TABLE)
    found = subscribe(broker)
    assert found.awaits_topics
    assert list(found.streams_of_kind("table")) == []
    now += 4
    found.discover()
    assert found.awaits_topics
    now += 2
    assert not found.awaits_topics
    broker.hidden.clear()
    found.discover(at_once=True)
    assert len(list(found.streams_of_kind("table"))) == 2


def test_a_paused_partition_gives_no_messages(broker: MemoryBroker) -> None:
    found = subscribe(broker)
    stream = found.streams[TRANSACTIONS, 0]
    found.pause(stream)
    assert TRANSACTIONS not in {m.topic() for m in found.poll(0, 100)}
    found.resume(stream)
    assert TRANSACTIONS in {m.topic() for m in found.poll(0, 100)}


def test_a_restarted_stream_goes_on_at_the_first_offset(broker: MemoryBroker) -> None:
    found = subscribe(broker)
    broker.first_offsets[TRANSACTIONS, 0] = 3
    stream = found.streams[TRANSACTIONS, 0]
    found.restart(stream)
    assert (stream.next_offset, found.first_offset(stream)) == (3, 3)


def test_metadata_lists_the_topics_that_exist(broker: MemoryBroker) -> None:
    consumer = broker.new_consumer({}, "worker", {})
    assert topic_metadata.partitions_of(consumer, [TABLE, "nowhere"]) == {TABLE: [0, 1]}
    partitions = [(TRANSACTIONS, 0), (SCHEMAS, 0)]
    assert topic_metadata.partition_ends(consumer, partitions) == dict(zip(partitions, [(0, 4), (0, 1)], strict=True))
