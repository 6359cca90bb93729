"""A worker that was away while Kafka compacted a topic deletes the rows, or says that it cannot know the deletes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic

from fixtures.databases import NewDatabase
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.topic_names import table_topic
from servers import Broker
from support.kafka_admin import create_topics
from support.kafka_source import Source, column, shape
from support.worker_runs import Database, settings_for, work_once

ITEM = shape("item", column("v", "text"))
# As the relay creates a table's topic, but compacted at once.
COMPACTED_AT_ONCE = {
    "cleanup.policy": "compact",
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.001",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "100",
}


def read_offsets(bootstrap: str, topic: str) -> dict[int, bytes | None]:
    """Return the value of each record of the topic's partition."""
    values: dict[int, bytes | None] = {}
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "x", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    while (message := consumer.poll(10)) is not None and message.error() is None:
        values[message.offset() or 0] = message.value()
    consumer.close()
    return values


@pytest.mark.parametrize("retention_ms", [86_400_000, 0])
def test_deletes_that_were_compacted_while_the_worker_was_away(
    kafka: Broker, source_name: str, new_database: NewDatabase, retention_ms: int
) -> None:
    source = Source(kafka.bootstrap_servers, source_name)
    topic = table_topic(source_name, "public", "item")
    config = COMPACTED_AT_ONCE | {"delete.retention.ms": str(retention_ms)}
    create_topics(kafka.bootstrap_servers, NewTopic(topic, 1, 1, config=config))
    source._made.add(topic)
    source.add(ITEM)
    for key in range(4):
        source.transaction(("c", "item", {"id": key, "v": "old"}))
    url = new_database("sqlite")
    settings, replica = settings_for(source_name, kafka.bootstrap_servers, url), Database(url)
    work_once(settings)
    assert len(replica.rows("item")) == 4
    # The worker is away.
    for key in (1, 2):
        source.transaction(("d", "item", {"id": key}))
    deletes = range(4, 8) if retention_ms == 0 else (4, 6)
    deadline = time.monotonic() + 60
    values: dict[int, Any] = {}
    while not values or any(offset in values for offset in deletes):
        assert time.monotonic() < deadline, f"{topic} still has {values}"
        # A new segment makes the segments before it ready for compaction.
        source.transaction(("u", "item", {"id": 3, "v": "new"}))
        time.sleep(0.3)
        values = read_offsets(kafka.bootstrap_servers, topic)
    if retention_ms == 0:
        for _ in range(2):
            with pytest.raises(DataError, match=r"compaction has removed records.* Rebuild the replica"):
                work_once(settings)
    else:
        work_once(settings)
        assert replica.rows("item") == [(0, "old"), (3, "new")]
        assert replica.state() == "consistent"
