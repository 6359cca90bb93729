"""Which worker of a replica is active: the owner of partition 0 of the transaction topic, in a consumer group.

Kafka does the failover; it decides only who *may* work. That no other one's rows get in is what the epoch in the
replica is for (``positions``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rowcast.consumer.changes import Partition
from rowcast.consumer.positions import Position
from rowcast.shared.config import Settings
from rowcast.shared.events import transaction_topic
from rowcast.shared.kafka import new_consumer

_log = logging.getLogger("rowcast.worker")


# A worker that is gone without a word is replaced after this long; the user may set it otherwise.
_PACE = {"session.timeout.ms": 10_000, "heartbeat.interval.ms": 1_000}


def group_id(source: str, replica: str) -> str:
    """The consumer group in which lag monitors find the replica."""
    return f"rowcast.{source}.{replica}"


class Membership:
    """One worker's membership in its replica's group. It reads no messages."""

    def __init__(self, settings: Settings, replica: str) -> None:
        self._topic = transaction_topic(settings.source)
        self._owns = False
        own: dict[str, Any] = {
            "group.id": group_id(settings.source, replica),
            # A worker that joins does not take the work from the one that has it.
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
        }
        self._consumer = new_consumer({**_PACE, **settings.require_kafka()}, "worker", own)
        self._consumer.subscribe(
            [self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )

    def active(self, timeout: float = 0.0) -> bool:
        """Whether this worker may work. Must be called now and then; waits up to ``timeout`` seconds for news."""
        # Its partitions are paused: all that comes is errors, which the client mends by itself.
        message = self._consumer.poll(timeout)
        if message is not None and message.error() is not None:
            _log.debug("group: %s", message.error())
        return self._owns

    def report(self, reach: Mapping[Partition, Position]) -> None:
        """Commits offsets for lag monitors; nothing of ours reads them, so that a failure does not matter."""
        from confluent_kafka import KafkaException, TopicPartition

        offsets = [TopicPartition(topic, number, p.next_offset) for (topic, number), p in reach.items()]
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            _log.debug("offsets for lag monitors were not committed: %s", error)

    def close(self) -> None:
        """Leaves the group, so that another worker takes over at once."""
        self._consumer.close()

    def _assigned(self, consumer: Any, partitions: list[Any]) -> None:
        consumer.incremental_assign(partitions)
        consumer.pause(partitions)
        self._owns |= any(p.topic == self._topic and p.partition == 0 for p in partitions)

    def _revoked(self, consumer: Any, partitions: list[Any]) -> None:
        if any(p.topic == self._topic and p.partition == 0 for p in partitions):
            self._owns = False
        consumer.incremental_unassign(partitions)
