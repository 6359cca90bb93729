"""Make the workers of a replica the members of a Kafka consumer group, and commit its offsets.

Lag monitors and ``status`` see the group. Where workers apply whole transactions, it does not choose the active worker,
because it notices a killed worker only after the session timeout, and a stuck worker only after minutes. The claim in
the replica does (``replica.claim``). Where workers apply rows, the group divides the partitions among them. The
positions in the replica decide there who may write (``replica.group_positions``), so the group may be wrong.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from typing import Any

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.reading.topic_metadata import partitions_of
from rowcast.consumer.status.workers import group_id
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.kafka.clients import new_consumer
from rowcast.shared.kafka.topic_names import transaction_topic
from rowcast.shared.process_name import new_process_name

_log = logging.getLogger("rowcast.worker")


# The defaults of the user's properties: a worker that has died is no longer counted after ten seconds.
_DEFAULTS = {"session.timeout.ms": 10_000, "heartbeat.interval.ms": 1_000}
# The leader of a group hears of new topics and partitions after this time. The client's default is five minutes.
_METADATA_MS = 30_000
_LEAVE_S = 5.0
# The client reports a fenced member as a fatal error, or by the broker's code.
_FENCED = ("_FATAL", "FENCED_INSTANCE_ID", "UNRELEASED_INSTANCE_ID")


class GroupMembership:
    """The membership of a worker in the replica's group. No messages are read."""

    def __init__(self, settings: Settings, replica: str) -> None:
        self._name = settings.replica(replica).member_name
        self._consumer = new_consumer(settings.require_kafka(), "worker", _properties(settings, replica))
        self.topics: frozenset[str] = frozenset()
        """The topics whose partitions the group divides among its members."""
        self.partitions: set[Partition] = set()
        """The partitions that this member has now."""

    def follow(self, topics: Collection[str]) -> None:
        """Let the group divide the partitions of these topics. Members may differ for a while."""
        if self.topics == frozenset(topics) or not topics:
            return
        self.topics = frozenset(topics)
        self._consumer.subscribe(
            sorted(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def partition_counts(self) -> dict[str, int]:
        """Return the number of partitions of each topic that exists. Raise UnreachableError."""
        return {topic: len(numbers) for topic, numbers in partitions_of(self._consumer, self.topics).items()}

    def poll(self) -> None:
        """Handle the group's events. Call the method regularly.

        Raise ConfigurationError if another worker has taken the name of this member.
        """
        # The partitions are paused, so only errors arrive. The client recovers from most by itself.
        message = self._consumer.poll(0.0)
        error = None if message is None else message.error()
        if error is None:
            return
        if error.name() in _FENCED:
            raise ConfigurationError(
                f"another worker has joined the consumer group with the member_name {self._name!r}, which must belong "
                "to one worker. Give each worker its own member_name, or none."
            )
        _log.debug("group: %s", error)

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
        self.partitions.update((one.topic, one.partition) for one in partitions)

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        consumer.incremental_unassign(partitions)
        self.partitions.difference_update((one.topic, one.partition) for one in partitions)


def live_membership(settings: Settings, replica: str) -> GroupMembership:
    """Join the group of the workers that apply whole transactions. The topic of the transactions has one partition."""
    membership = GroupMembership(settings, replica)
    membership.follow([transaction_topic(settings.source)])
    return membership


def _properties(settings: Settings, replica: str) -> dict[str, Any]:
    """Return the properties of a member, on top of the user's."""
    kafka = settings.require_kafka()
    own: dict[str, Any] = {
        "group.id": group_id(settings.source, replica),
        "enable.auto.commit": False,
        # The assignor of some versions of the client never ends if members with one name follow different topics.
        "client.id": f"{kafka.get('client.id', 'rowcast')}-{new_process_name()}",
    }
    if "topic.metadata.refresh.interval.ms" not in kafka:
        own["topic.metadata.refresh.interval.ms"] = _METADATA_MS
    if name := settings.replica(replica).member_name:
        own["group.instance.id"] = name
    if kafka.get("group.protocol") == "consumer":
        # The broker divides the partitions, and has the timeouts. The client refuses both properties.
        return own
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in kafka}
    return {**defaults, "partition.assignment.strategy": "cooperative-sticky", **own}
