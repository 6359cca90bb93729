"""A worker that has started since finds the newest events of keys in Kafka."""

from __future__ import annotations

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.earlier_events import read_newest
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.shared.config.settings import Settings
from servers import Broker
from support.kafka_source import Source, column, shape

ITEM = shape("item", column("n"))


def test_the_newest_events_before_the_read_offsets_are_found(kafka: Broker, source_name: str) -> None:
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(ITEM)
    for key in range(3):
        source.transaction(("c", "item", {"id": key, "n": 0}))
    middle = source.lsn
    source.transaction(("u", "item", {"id": 1, "n": 1}), ("d", "item", {"id": 2}))
    end = source.lsn
    source.transaction(("u", "item", {"id": 0, "n": 9}))
    layouts = RowLayouts()
    layouts.add(ITEM.version, ITEM)
    settings = Settings(source=source.name, kafka={"bootstrap.servers": source.bootstrap})
    # Six events and a tombstone are in the partition, of which the last event has not been read.
    stream = PartitionStream((f"{source.name}.public.item", 0), "table", 6, end)
    newest, is_complete = read_newest(settings, layouts, [stream], middle)
    assert is_complete
    assert newest == {b'{"id":1}': middle + 2, b'{"id":2}': middle + 3}
