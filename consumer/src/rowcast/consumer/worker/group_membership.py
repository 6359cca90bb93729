"""Show the workers of a replica as a Kafka consumer group, and commit its offsets, for lag monitors and ``status``.

The group does not choose the active worker, because it notices a killed worker only after the session timeout, and a
stuck worker only after minutes. The claim in the replica does (``replica.claim``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.status.workers import group_id
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.clients import new_consumer
from rowcast.shared.kafka.topic_names import transaction_topic

_log = logging.getLogger("rowcast.worker")


# The defaults of the user's properties: a worker that has died is no longer counted after ten seconds.
_DEFAULTS = {"session.timeout.ms": 10_000, "heartbeat.interval.ms": 1_000}
_LEAVE_S = 5.0


class GroupMembership:
    """The membership of a worker in the replica's group. No messages are read."""

    def __init__(self, settings: Settings, replica: str) -> None:
        own: dict[str, Any] = {
            "group.id": group_id(settings.source, replica),
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
        }
        self._consumer = new_consumer({**_DEFAULTS, **settings.require_kafka()}, "worker", own)
        self._consumer.subscribe(
            [transaction_topic(settings.source)],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def poll(self) -> None:
        """Handle the group's events. Call this regularly."""
        # The partitions are paused, so only errors arrive. The client recovers from them by itself.
        message = self._consumer.poll(0.0)
        if message is not None and message.error() is not None:
            _log.debug("group: %s", message.error())

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
        """Leave the group. Wait for Kafka's answer for a few seconds only.

        The client waits for the answers to commits of offsets, which may never come. Without an answer the group counts
        the worker until the session timeout.
        """
        leaving = threading.Thread(target=self._consumer.close, name="rowcast-leave-group", daemon=True)
        leaving.start()
        leaving.join(_LEAVE_S)
        if leaving.is_alive():
            _log.info("Kafka does not answer, so its group may count this worker for some seconds more")

    def _on_assign(self, consumer: Any, partitions: list[Any]) -> None:
        consumer.incremental_assign(partitions)
        consumer.pause(partitions)

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        consumer.incremental_unassign(partitions)
