"""Read partitions, ends of partitions, and shapes: everything needed before events are read."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from rowcast.consumer.events.position import Partition, message_target
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.source_notes import parse_notes
from rowcast.consumer.reading.skips import NO_SKIPS, Skips
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.client_errors import is_transient
from rowcast.shared.kafka.clients import new_consumer, unreachable, unreachable_by
from rowcast.shared.kafka.signature import SignatureCheck
from rowcast.shared.kafka.topic_names import schema_topic
from rowcast.shared.tables.shape_document import parse_shape

_log = logging.getLogger("rowcast.worker")

KAFKA_TIMEOUT_S = 10.0

_RETRY_PAUSE_S = 0.1

# The timestamps of Kafka's protocol that ask for the first offset, and for the offset after the last.
_FIRST, _AFTER_LAST = -2, -1

_COMMITTED = {"isolation.level": "read_committed"}

# A server answers a client's requests in turn. A consumer at the end of a partition gets its next answer only after
# this time.
_AT_ONCE = {"fetch.wait.max.ms": 10}

T = TypeVar("T")

# The settings of every consumer of the worker, on top of the user's properties. The worker reads uncommitted records,
# because everything in the outbox is committed on the primary, and the lsns remove what is sent twice.
READER_CONFIG: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_uncommitted",
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    "fetch.min.bytes": 1,
    # The broker answers at once if records are available. A shorter time would only cause more work. The embedded Kafka
    # polls once in this time, and a resumed partition waits for the answer to the request before.
    "fetch.wait.max.ms": 100,
    "fetch.queue.backoff.ms": 20,
    "queued.min.messages": 50_000,
}


def new_reader(settings: Settings, *, committed: bool = False) -> AbstractContextManager[Any]:
    """Create a consumer for events, and close it at the end of the block. ``committed``: read committed messages."""
    return _new_consumer(settings, _COMMITTED if committed else {})


def new_asker(settings: Settings) -> AbstractContextManager[Any]:
    """Create a consumer for shapes and for the ends of partitions, and close it at the end of the block."""
    return _new_consumer(settings, _AT_ONCE)


def new_viewer(settings: Settings, *, follows: bool = False) -> AbstractContextManager[Any]:
    """Create a consumer for a look into the topics. The consumer reads committed messages, and each event once.

    ``follows``: wait at the ends for new messages, with few requests.
    """
    return _new_consumer(settings, _COMMITTED if follows else _COMMITTED | _AT_ONCE)


@contextmanager
def _new_consumer(settings: Settings, own: dict[str, Any]) -> Iterator[Any]:
    consumer = new_consumer(settings.require_kafka(), "worker", {**READER_CONFIG, "group.id": "rowcast", **own})
    try:
        yield consumer
    finally:
        consumer.close()


def partitions_of(consumer: Any, topics: Iterable[str]) -> dict[str, list[int]]:
    """Return the partition numbers of the topics that exist. Raise UnreachableError if no broker answers."""
    return partitions_in(retry_transient(consumer, lambda: consumer.list_topics(timeout=KAFKA_TIMEOUT_S)), topics)


def partitions_in(metadata: Any, topics: Iterable[str]) -> dict[str, list[int]]:
    """Return the partition numbers of the topics that exist in the cluster's metadata."""
    wanted = set(topics)
    return {name: sorted(t.partitions) for name, t in metadata.topics.items() if name in wanted and t.error is None}


def partition_ends(consumer: Any, partitions: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
    """Return the first offset of each partition, and the offset after the last.

    Raise UnreachableError if the leader of a partition does not answer.
    """
    first = retry_transient(consumer, lambda: _offsets_at(consumer, partitions, _FIRST))
    end = retry_transient(consumer, lambda: _offsets_at(consumer, partitions, _AFTER_LAST))
    return {partition: (first[partition], end[partition]) for partition in partitions}


def offsets_since(consumer: Any, partitions: Collection[Partition], ms: int) -> dict[Partition, int]:
    """Return the offset of the first record published at ``ms`` or later, for each partition.

    ``ms``: milliseconds since 1970. Without such a record, return the offset after the last record.
    """
    found = retry_transient(consumer, lambda: _offsets_at(consumer, partitions, max(0, ms)))
    end = retry_transient(consumer, lambda: _offsets_at(consumer, partitions, _AFTER_LAST))
    return {partition: end[partition] if offset < 0 else offset for partition, offset in found.items()}


def _offsets_at(consumer: Any, partitions: Collection[Partition], timestamp: int) -> dict[Partition, int]:
    """Return an offset of each partition. All partitions of a server are in one request."""
    from confluent_kafka import KafkaException, TopicPartition

    asked = [TopicPartition(*partition, timestamp) for partition in partitions]
    found = consumer.offsets_for_times(asked, timeout=KAFKA_TIMEOUT_S) if asked else []
    for one in found:
        if one.error is not None:
            raise KafkaException(one.error)
    return {(one.topic, one.partition): one.offset for one in found}


def retry_transient(client: Any, call: Callable[[], T]) -> T:
    """Repeat the call of a client while Kafka answers late or with a transient error, for ``KAFKA_TIMEOUT_S`` at most.

    Raise UnreachableError afterwards.
    """
    from confluent_kafka import KafkaException

    deadline = time.monotonic() + KAFKA_TIMEOUT_S
    while True:
        try:
            return call()
        except KafkaException as error:
            if not is_transient(error.args[0]) or time.monotonic() > deadline:
                raise unreachable_by(client, error) from error
        except TimeoutError as error:
            # A busy client library may be later with its own timeout than the wait for its answer.
            if time.monotonic() > deadline:
                late = TimeoutError(f"no answer within {KAFKA_TIMEOUT_S:.0f} s")
                raise unreachable_by(client, late) from error
        time.sleep(_RETRY_PAUSE_S)


def add_shape(value: bytes, layouts: RowLayouts, offset: int) -> bool:
    """Add the shape in a message of the schema topic. Return True if the shape is news. Raise DataError."""
    shape, notes = parse_shape(value), parse_notes(value)
    layouts.notes.add(shape.full_name, notes, offset, wanted=layouts.is_wanted(shape.full_name))
    return layouts.add(notes.version or shape.version, shape, offset)


def read_shapes(
    asker: Any, settings: Settings, layouts: RowLayouts, skips: Skips = NO_SKIPS, *, lenient: bool = False
) -> None:
    """Read the schema topic from the first record to the present end, into ``layouts``, if the topic exists.

    ``asker``: from ``new_asker``. It follows no partition afterwards. ``skips``: messages to leave out. ``lenient``:
    leave out invalid shapes with a warning.

    Raise DataError with the offset of an invalid shape. Raise UnreachableError.
    """
    from confluent_kafka import KafkaException, TopicPartition

    topic = schema_topic(settings.source)
    signatures = SignatureCheck(settings.signature_keys)
    partition = topic, 0
    try:
        if topic not in partitions_of(asker, [topic]):
            return
        next_offset, end = partition_ends(asker, [partition])[partition]
        asker.incremental_assign([TopicPartition(*partition, next_offset)])
        while next_offset < end:
            message: Any = asker.poll(KAFKA_TIMEOUT_S)
            if message is None:
                raise unreachable(settings.kafka, TimeoutError(f"no answer for topic {topic}"))
            error = message.error()
            if error is not None and error.name() == "_PARTITION_EOF":
                break
            if error is not None:
                raise KafkaException(error)
            next_offset = message.offset() + 1
            if message.value() is not None and message.offset() not in skips.offsets(partition):
                try:
                    signatures.check(topic, message.key(), message.value(), message.headers())
                    add_shape(message.value(), layouts, message.offset())
                except DataError as bad:
                    located = DataError(f"topic {topic}, partition 0, offset {message.offset()}: {bad}")
                    located.skip = message_target(partition, message.offset())
                    if lenient:
                        _log.warning("%s", located)
                        continue
                    raise located from bad
        asker.incremental_unassign([TopicPartition(*partition)])
    except KafkaException as error:
        raise unreachable(settings.kafka, error) from error
