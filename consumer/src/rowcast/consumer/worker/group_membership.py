"""Choose the active worker of a replica by a Kafka consumer group.

The active worker is the owner of partition 0 of the transaction topic. Kafka does the failover, and decides only which
worker *may* work. The epoch in the replica keeps all others from writing (``replica.positions``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.status.workers import group_id
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.clients import new_consumer
from rowcast.shared.kafka.messages import transaction_topic

_log = logging.getLogger("rowcast.worker")


# The defaults of the user's properties: a worker that has died is replaced after ten seconds.
_DEFAULTS = {"session.timeout.ms": 10_000, "heartbeat.interval.ms": 1_000}


class GroupMembership:
    """The membership of a worker in the replica's group. No messages are read."""

    def __init__(self, settings: Settings, replica: str) -> None:
        self._topic = transaction_topic(settings.source)
        self._is_owner = False
        own: dict[str, Any] = {
            "group.id": group_id(settings.source, replica),
            # A joining worker does not take the partition from the owner.
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
        }
        self._consumer = new_consumer({**_DEFAULTS, **settings.require_kafka()}, "worker", own)
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def is_active(self, timeout: float = 0.0) -> bool:
        """Return whether this worker may work. Wait up to ``timeout`` seconds for news of the group.

        Call this regularly, because the client handles the group's events meanwhile.
        """
        # The partitions are paused, so only errors arrive. The client recovers from them by itself.
        message = self._consumer.poll(timeout)
        if message is not None and message.error() is not None:
            _log.debug("group: %s", message.error())
        return self._is_owner

    def commit_offsets(self, positions: Mapping[Partition, Position]) -> None:
        """Commit offsets for lag monitors. A failure does not matter, because the worker never reads them."""
        from confluent_kafka import KafkaException, TopicPartition

        offsets = [TopicPartition(topic, number, p.next_offset) for (topic, number), p in positions.items()]
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            _log.debug("offsets for lag monitors were not committed: %s", error)

    def close(self) -> None:
        """Leave the group. Another worker takes over at once."""
        self._consumer.close()

    def _on_assign(self, consumer: Any, partitions: list[Any]) -> None:
        consumer.incremental_assign(partitions)
        consumer.pause(partitions)
        self._is_owner |= self._include_deciding_one(partitions)

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        if self._include_deciding_one(partitions):
            self._is_owner = False
        consumer.incremental_unassign(partitions)

    def _include_deciding_one(self, partitions: list[Any]) -> bool:
        """Return whether partition 0 of the transaction topic is among the partitions."""
        return any(p.topic == self._topic and p.partition == 0 for p in partitions)
