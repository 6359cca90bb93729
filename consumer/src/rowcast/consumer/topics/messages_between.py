"""Read the messages of some partitions from start to end, without a consumer group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from rowcast.consumer.events.position import Partition
from rowcast.consumer.reading.topic_metadata import KAFKA_TIMEOUT_S
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.clients import unreachable

_POLL_S = 0.2
_BATCH = 1_000


def messages_between(
    consumer: Any, settings: Settings, starts: Mapping[Partition, int], ends: Mapping[Partition, int]
) -> Iterator[Any]:
    """Yield the messages of each partition from start to end, in the order of offsets. Raise UnreachableError.

    ``consumer``: from ``new_viewer``. It follows no partition before and afterwards.
    """
    from confluent_kafka import TopicPartition

    rest = {place for place, end in ends.items() if starts[place] < end}
    if rest:
        consumer.incremental_assign([TopicPartition(*place, starts[place]) for place in rest])
    heard = time.monotonic()
    while rest:
        # A single request for many messages would wait for the full number.
        messages = consumer.consume(1, _POLL_S)
        for message in messages + (consumer.consume(_BATCH, 0) if messages else []):
            place = message.topic(), message.partition()
            if message.error() is not None:
                if not is_partition_end(message, settings):
                    continue  # A client without a broker says so again and again.
                rest.discard(place)
            elif message.offset() < ends[place]:
                yield message
                if message.offset() + 1 >= ends[place]:
                    rest.discard(place)
            heard = time.monotonic()
        if time.monotonic() - heard > KAFKA_TIMEOUT_S:
            raise unreachable(settings.kafka, TimeoutError(f"no answer within {KAFKA_TIMEOUT_S:.0f} s"))
    consumer.unassign()


def is_partition_end(message: Any, settings: Settings) -> bool:
    """Return whether an error says that the partition ends here. Raise UnreachableError for a lasting error."""
    from confluent_kafka import KafkaException

    error = message.error()
    if error.name() == "_PARTITION_EOF":
        return True
    if error.fatal() or error.name() in ("TOPIC_AUTHORIZATION_FAILED", "_AUTHENTICATION"):
        raise unreachable(settings.kafka, KafkaException(error))
    return False
