"""Look for a BEGIN or END earlier in the transaction topic, from before this worker read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rowcast.consumer.events.position import Partition
from rowcast.consumer.reading.topic_metadata import KAFKA_TIMEOUT_S, new_asker, partition_ends
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError, UnreachableError
from rowcast.shared.kafka.messages import TransactionEvent, parse_transaction

_FIRST_LOOK = 2_000
_NEXT_LOOK_FACTOR = 8
_BATCH = 500
# A relay sends at most the claims again that Kafka has not committed, which are fewer transactions.
_MAX_LOOK = 1_000_000


def was_sent_before(settings: Settings, partition: Partition, offset: int, event: TransactionEvent) -> bool:
    """Return whether the same BEGIN or END is before ``offset``.

    The topic is not compacted, and lsns only grow. Therefore records are read backwards up to the lsn of the event.
    Raise UnreachableError if Kafka does not answer.
    """
    end, look = offset, _FIRST_LOOK
    with new_asker(settings) as asker:
        first = partition_ends(asker, [partition])[partition][0]
        while end > first and offset - end < _MAX_LOOK:
            start = max(first, end - look)
            lowest = event.lsn + 1
            for found in _records(asker, partition, start, end):
                if (found.lsn, found.status, found.id) == (event.lsn, event.status, event.id):
                    return True
                lowest = min(lowest, found.lsn)
            if lowest < event.lsn:
                return False
            end, look = start, look * _NEXT_LOOK_FACTOR
    return False


def _records(consumer: Any, partition: Partition, start: int, end: int) -> Iterator[TransactionEvent]:
    """Yield the valid records from ``start`` up to ``end``, without ``end``."""
    from confluent_kafka import TopicPartition

    consumer.assign([TopicPartition(*partition, start)])
    next_offset = start
    while next_offset < end:
        # A single request for many messages would wait for the full number.
        messages = consumer.consume(1, KAFKA_TIMEOUT_S)
        if not messages:
            raise UnreachableError(f"no answer for topic {partition[0]}")
        messages += consumer.consume(_BATCH, 0)
        for message in messages:
            if message.error() is not None:
                return
            next_offset = message.offset() + 1
            if next_offset > end:
                return
            if message.value() is None:
                continue
            try:
                yield parse_transaction(message.value())
            except DataError:
                continue  # The record was left out when it was read.
