"""Read many partitions in the order of lsns, which is the order of the commits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from typing import Any, NamedTuple

from rowcast.consumer.events.connect_decoder import WITH_SCHEMA, plain_message
from rowcast.consumer.events.position import Partition
from rowcast.consumer.reading.topic_metadata import KAFKA_TIMEOUT_S
from rowcast.consumer.topics.messages_between import is_partition_end
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.clients import unreachable
from rowcast.shared.kafka.messages import ChangeEvent, TransactionEvent, parse_change, parse_transaction

_POLL_S = 0.1
_BATCH = 1_000
_MOST_HELD, _FEW_HELD = 4_000, 1_000
# Kafka shows the partitions of a Kafka transaction one after another.
_COMMIT_GRACE_S = 5.0


class OrderedMessage(NamedTuple):
    """A message, with its event."""

    message: Any
    event: ChangeEvent | TransactionEvent


class LsnOrder:
    """Merge partitions of committed messages by lsn, from ``starts`` to ``ends``, up to ``last_lsn``.

    ``consumer``: from ``new_viewer``, without a followed partition. ``transactions``: the partition of the transaction
    topic. Tombstones are left out, because a tombstone follows its delete event.
    """

    def __init__(
        self,
        consumer: Any,
        settings: Settings,
        transactions: Partition,
        starts: Mapping[Partition, int],
        ends: Mapping[Partition, int],
        last_lsn: int,
    ) -> None:
        self._consumer = consumer
        self._settings = settings
        self._transactions = transactions
        self._starts = starts
        self._ends = ends
        self._last_lsn = last_lsn
        self._held: dict[Partition, deque[OrderedMessage]] = {place: deque() for place in ends}
        self._unread = {place for place, end in ends.items() if starts[place] < end}
        self._ended_at: dict[Partition, float] = {}
        self._paused: set[Partition] = set()
        self._heads: list[tuple[int, Partition]] = []

    def __iter__(self) -> Iterator[OrderedMessage]:
        """Yield the messages. Raise DataError for an unreadable message, and UnreachableError."""
        from confluent_kafka import TopicPartition

        if self._unread:
            self._consumer.incremental_assign([TopicPartition(*p, self._starts[p]) for p in self._unread])
        heard = time.monotonic()
        while self._unread or self._heads:
            # The smallest lsn is known when every partition has shown its next message.
            while self._heads and not any(not self._held[place] for place in self._unread):
                yield self._pop()
            if self._unread:
                heard = time.monotonic() if self._poll() else heard
                self._end_waiting()
                if time.monotonic() - heard > KAFKA_TIMEOUT_S:
                    late = TimeoutError(f"no answer within {KAFKA_TIMEOUT_S:.0f} s")
                    raise unreachable(self._settings.kafka, late)
        self._consumer.unassign()

    def _pop(self) -> OrderedMessage:
        _, place = heappop(self._heads)
        held = self._held[place]
        found = held.popleft()
        if held:
            heappush(self._heads, (held[0].event.lsn, place))
        if place in self._paused and len(held) < _FEW_HELD:
            self._resume(place)
        return found

    def _poll(self) -> bool:
        """Read what has come, and wait for the first. Return whether Kafka has said anything."""
        messages = self._consumer.consume(1, _POLL_S)
        messages += self._consumer.consume(_BATCH, 0) if messages else []
        for message in messages:
            place = message.topic(), message.partition()
            if place not in self._unread:
                continue
            if message.error() is None:
                self._ended_at.pop(place, None)
                self._take(place, message)
            elif is_partition_end(message, self._settings):
                if message.offset() >= self._ends[place]:
                    self._end(place)
                else:
                    self._ended_at[place] = time.monotonic()
        return bool(messages)

    def _take(self, place: Partition, message: Any) -> None:
        if message.offset() >= self._ends[place]:
            self._end(place)
            return
        if message.value() is not None:
            event = self._event_of(place, message)
            if event.lsn > self._last_lsn:
                self._end(place)
                return
            held = self._held[place]
            if not held:
                heappush(self._heads, (event.lsn, place))
            held.append(OrderedMessage(message, event))
            if len(held) > _MOST_HELD and place not in self._paused:
                self._pause(place)
        if message.offset() + 1 >= self._ends[place]:
            self._end(place)

    def _event_of(self, place: Partition, message: Any) -> ChangeEvent | TransactionEvent:
        try:
            if place == self._transactions:
                return parse_transaction(message.value())
            key, value = message.key(), message.value()
            return parse_change(*(plain_message(key, value) if value.startswith(WITH_SCHEMA) else (key, value)))
        except DataError as error:
            raise DataError(f"topic {place[0]}, partition {place[1]}, offset {message.offset()}: {error}") from error

    def _end(self, place: Partition) -> None:
        self._unread.discard(place)
        self._ended_at.pop(place, None)
        if place not in self._paused:
            self._pause(place)

    def _end_waiting(self) -> None:
        """End the partitions that have shown no committed message up to their end for a while."""
        now = time.monotonic()
        for place in [place for place, at in self._ended_at.items() if now - at > _COMMIT_GRACE_S]:
            self._end(place)

    def _pause(self, place: Partition) -> None:
        from confluent_kafka import TopicPartition

        self._paused.add(place)
        self._consumer.pause([TopicPartition(*place)])

    def _resume(self, place: Partition) -> None:
        from confluent_kafka import TopicPartition

        if place in self._unread:
            self._paused.discard(place)
            self._consumer.resume([TopicPartition(*place)])
