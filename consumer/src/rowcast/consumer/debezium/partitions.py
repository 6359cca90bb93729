"""The partitions of the reader: the start, the progress and the pauses of each partition."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from rowcast.consumer.debezium.log_place import PlaceMemory
from rowcast.consumer.debezium.topics import find_topics
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.topic_ids import TopicIds
from rowcast.consumer.reading.topic_metadata import partition_ends, partitions_of
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.topic_names import transaction_topic

_DISCOVERY_S = 5.0
# The ENDs before the position name the applied transactions. A connector repeats fewer ENDs after a crash.
_READ_BACK = 50_000

NEW_SNAPSHOT = (
    "Remove the replica's tables and its rows in rowcast_replica, rowcast_position and rowcast_table, let the "
    "connector take a snapshot of all tables, and start the worker again."
)


@dataclass(slots=True, eq=False)
class FollowedPartition:
    """A partition. ``applied_up_to``: messages of a smaller offset were applied before, and are only remembered.

    ``target``: the offset to read to before the replica has caught up. ``last_delete``: the key of the message read
    last if it is a delete.
    """

    partition: Partition
    next_offset: int
    applied_up_to: int = 0
    target: int = 0
    at_end: bool = False
    is_paused: bool = False
    last_delete: bytes | None = None
    places: PlaceMemory = field(default_factory=PlaceMemory)

    @property
    def target_reached(self) -> bool:
        """Return whether everything before ``target`` has been read."""
        return self.next_offset >= self.target


class Partitions:
    """Follow the topics of the wanted tables, and of the transactions if ``with_transactions``.

    ``consumer``: fetches the messages. ``asker``: asks for the ends of partitions. Nobody else uses the two clients
    meanwhile.
    """

    def __init__(
        self, settings: Settings, layouts: RowLayouts, positions: Mapping[Partition, Position], topic_ids: TopicIds,
        consumer: Any, asker: Any, *, with_transactions: bool,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._layouts = layouts
        self._positions = positions
        self._ids = topic_ids
        self._consumer = consumer
        self._asker = asker
        self._with_transactions = with_transactions
        self._next_discovery = 0.0
        self.transactions: Partition = (transaction_topic(settings.source), 0)
        self.followed: dict[Partition, FollowedPartition] = {}
        self.discover(at_once=True)

    def tables(self) -> list[FollowedPartition]:
        """Return the partitions of the tables' topics."""
        return [one for one in self.followed.values() if one.partition != self.transactions]

    def discover(self, *, at_once: bool = False) -> None:
        """Look for new topics and partitions every few seconds, and follow the new partitions."""
        now = time.monotonic()
        if not at_once and now < self._next_discovery:
            return
        self._next_discovery = now + _DISCOVERY_S
        new = []
        for topic, numbers in find_topics(self._consumer, self._settings, self._layouts).items():
            if topic == self.transactions[0]:
                self._require_one(topic, numbers)
                numbers = numbers if self._with_transactions else []
            new += [(topic, number) for number in numbers if (topic, number) not in self.followed]
        if new:
            self._follow(new)

    @staticmethod
    def _require_one(topic: str, numbers: Collection[int]) -> None:
        if len(numbers) > 1:
            raise DataError(
                f"topic {topic} has {len(numbers)} partitions, and the order of the transactions is lost in them. "
                "Create it with one partition, with topic.creation.* of the connector"
            )

    def _follow(self, new: list[Partition]) -> None:
        from confluent_kafka import TopicPartition

        self._ids.compare({topic for topic, _ in new})
        partitions_of(self._asker, ())
        ends = partition_ends(self._asker, new)
        assigned = [self._begin(partition, *ends[partition]) for partition in new]
        self.followed |= {one.partition: one for one in assigned}
        self._consumer.incremental_assign([TopicPartition(*one.partition, one.next_offset) for one in assigned])

    def _begin(self, partition: Partition, first: int, end: int) -> FollowedPartition:
        position = self._positions.get(partition)
        if position is None:
            return FollowedPartition(partition, first, first, end)
        topic, number = partition
        if not first <= position.next_offset <= end:
            raise DataError(
                f"topic {topic}, partition {number}: offset {position.next_offset} was to be read next, but the "
                f"partition has the offsets from {first} up to {end}, so Kafka no longer has events that the replica "
                f"lacks. {NEW_SNAPSHOT}"
            )
        start = position.next_offset
        if partition == self.transactions:
            start = max(first, start - _READ_BACK)
        return FollowedPartition(partition, start, position.next_offset, end, places=PlaceMemory(position.lsn))

    def set_targets(self) -> None:
        """Set the target of each partition to its present end."""
        for partition, (_, end) in partition_ends(self._asker, list(self.followed)).items():
            self.followed[partition].target = end

    def compare_ids(self) -> None:
        """Raise DataError if a topic was deleted and created again. Compare from time to time, without waiting."""
        self._ids.compare_sometimes({topic for topic, _ in self.followed})

    def poll(self, timeout: float, limit: int) -> list[Any]:
        """Wait for the first message, then return all messages already in the client."""
        messages: list[Any] = self._consumer.consume(1, timeout)
        if messages:
            messages += self._consumer.consume(limit - 1, 0)
        return messages

    def pause_all_but(self, topics: Collection[str] | None) -> None:
        """Fetch only ``topics`` and the transactions. None: fetch all topics."""
        from confluent_kafka import TopicPartition

        for one in self.tables():
            pauses = topics is not None and one.partition[0] not in topics
            if pauses == one.is_paused:
                continue
            one.is_paused = pauses
            place = [TopicPartition(*one.partition)]
            if pauses:
                self._consumer.pause(place)
            else:
                self._consumer.resume(place)
                # Resuming can bring the client back to the offset before the pause.
                self._consumer.seek(TopicPartition(*one.partition, one.next_offset))
