"""Find the first unapplied record of each partition, and the time of its commit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from rowcast.consumer.events.position import Partition
from rowcast.consumer.reading.topic_metadata import KAFKA_TIMEOUT_S
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import parse_change, parse_transaction

_POLL_S = 0.1


class Rest(NamedTuple):
    """The records of a partition after the replica's position: from ``next_offset`` up to ``end``.

    ``lsn``: the greatest lsn that was applied from the partition.
    """

    next_offset: int
    end: int
    lsn: int


def commit_times(asker: Any, rests: Mapping[Partition, Rest], transactions: str) -> dict[Partition, int | None]:
    """Return the time of the first unapplied commit in each partition, in milliseconds since 1970.

    The time is None if the partition has no unapplied record: control records and repeated messages have offsets too. A
    partition is left out if Kafka does not answer in time. ``asker``: from ``new_asker``. The consumer follows no
    partition afterwards. ``transactions``: the name of the transaction topic.
    """
    from confluent_kafka import TopicPartition

    waiting = {partition: rest for partition, rest in rests.items() if rest.next_offset < rest.end}
    found: dict[Partition, int | None] = {}
    assigned = [TopicPartition(*partition, rest.next_offset) for partition, rest in waiting.items()]
    if not assigned:
        return found
    asker.incremental_assign(assigned)
    deadline = time.monotonic() + KAFKA_TIMEOUT_S
    while found.keys() < waiting.keys() and time.monotonic() < deadline:
        message = asker.poll(_POLL_S)
        if message is None:
            continue
        partition = message.topic(), message.partition()
        if partition in found:
            continue
        if message.error() is not None:
            if message.error().name() == "_PARTITION_EOF":
                found[partition] = None
            continue
        lsn, ts_ms = _lsn_and_time(message, transactions)
        if lsn > waiting[partition].lsn:
            found[partition] = ts_ms
        elif message.offset() + 1 >= waiting[partition].end:
            found[partition] = None
    asker.incremental_unassign([TopicPartition(*partition) for partition in waiting])
    return found


def _lsn_and_time(message: Any, transactions: str) -> tuple[float, int]:
    """Return the lsn of a message and the time of the commit. An unreadable message counts as unapplied."""
    value = message.value()
    if value is None:
        # A tombstone follows the delete of its key.
        return 0, 0
    try:
        event: Any
        if message.topic() == transactions:
            event = parse_transaction(value)
        else:
            event = parse_change(message.key(), value)
    except DataError:
        return float("inf"), int(message.timestamp()[1])
    return event.lsn, event.ts_ms
