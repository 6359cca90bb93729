"""Reading a topic's end and start, and the shapes: what must be known before events are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import orjson

from rowcast.consumer.changes import Partition
from rowcast.consumer.layouts import Layouts
from rowcast.shared.config import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.events import schema_topic
from rowcast.shared.kafka import new_consumer, unreachable
from rowcast.shared.shapes import TableShape

TIMEOUT_S = 10.0

_AGAIN_S = 0.1
# What a topic that is being made, or a partition that changes its leader, answers for a moment.
_PASSING = frozenset(
    ("NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PART", "REPLICA_NOT_AVAILABLE")
    + ("_UNKNOWN_PARTITION", "_UNKNOWN_TOPIC", "_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_PARTIAL")
)

T = TypeVar("T")

# What every consumer of the worker sets, on top of the user's properties. Reading uncommitted: everything in the
# outbox is committed on the primary, and lsns weed out what is sent twice.
READING: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_uncommitted",
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    "fetch.min.bytes": 1,
    # The broker answers at once when there is something, and a shorter time only gives it work. The embedded Kafka
    # looks again after this time; and partitions that are resumed wait for the answer that is under way.
    "fetch.wait.max.ms": 100,
    "fetch.queue.backoff.ms": 20,
    "queued.min.messages": 50_000,
}


def partitions_of(consumer: Any, topics: Iterable[str]) -> dict[str, list[int]]:
    """The partitions of those topics that exist. Raises UnreachableError if no broker answers."""
    wanted = set(topics)
    metadata = _patiently(lambda: consumer.list_topics(timeout=TIMEOUT_S))
    return {name: sorted(t.partitions) for name, t in metadata.topics.items() if name in wanted and t.error is None}


def ends(consumer: Any, partition: Partition) -> tuple[int, int]:
    """(first offset, offset after the last). Raises UnreachableError if the partition's leader does not answer."""
    from confluent_kafka import TopicPartition

    at = TopicPartition(*partition)
    low, high = _patiently(lambda: consumer.get_watermark_offsets(at, timeout=TIMEOUT_S))
    return low, high


def _patiently(call: Callable[[], T]) -> T:
    """Asks again while the answer is that of a passing state."""
    from confluent_kafka import KafkaException

    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return call()
        except KafkaException as error:
            if error.args[0].name() not in _PASSING or time.monotonic() > deadline:
                raise unreachable({}, error) from error
        time.sleep(_AGAIN_S)


def read_shape(value: bytes, layouts: Layouts, offset: int) -> TableShape | None:
    """Takes in one message of the schema topic: the shape if it was news, None if not. Raises DataError."""
    shape = TableShape.from_json(value)
    version = orjson.loads(value).get("version")
    return shape if layouts.add(version if isinstance(version, str) else shape.version, shape, offset) else None


def read_shapes(settings: Settings, layouts: Layouts) -> Partition | None:
    """Reads the schema topic from its beginning to its end as it is now, into ``layouts``.

    None if there is no such topic yet. Raises DataError naming the offset, UnreachableError.
    """
    from confluent_kafka import KafkaException, TopicPartition

    consumer = new_consumer(settings.require_kafka(), "worker", {**READING, "group.id": "rowcast"})
    topic = schema_topic(settings.source)
    try:
        if topic not in partitions_of(consumer, [topic]):
            return None
        low, high = ends(consumer, (topic, 0))
        consumer.assign([TopicPartition(topic, 0, low)])
        position = low
        while position < high:
            message: Any = consumer.poll(TIMEOUT_S)
            if message is None:
                raise unreachable(settings.kafka, TimeoutError(f"no answer for topic {topic}"))
            error = message.error()
            if error is not None and error.name() == "_PARTITION_EOF":
                break
            if error is not None:
                raise KafkaException(error)
            position = message.offset() + 1
            if message.value() is not None:
                try:
                    read_shape(message.value(), layouts, message.offset())
                except DataError as bad:
                    raise DataError(f"topic {topic}, partition 0, offset {message.offset()}: {bad}") from bad
        return topic, 0
    except KafkaException as error:
        raise unreachable(settings.kafka, error) from error
    finally:
        consumer.close()
