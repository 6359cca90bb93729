"""The partitions that the reader follows, assigned by hand: where each begins, and which are paused."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rowcast.consumer.changes import Partition
from rowcast.consumer.layouts import Layouts
from rowcast.consumer.positions import Position
from rowcast.consumer.streams import Kind, Stream
from rowcast.consumer.topics import READING, ends, partitions_of
from rowcast.shared.config import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.events import schema_topic, transaction_topic
from rowcast.shared.kafka import new_consumer

_log = logging.getLogger("rowcast.worker")

_LOOK_FOR_MISSING_S = 0.5
# The relay makes a table's topic before it tells its shape. But servers learn of topics at their own pace: one that is
# missing this long is taken for deleted.
_MISSING_GRACE_S = 5.0
_LOOK_FOR_PARTITIONS_S = 60.0


class Subscription:
    """A consumer and its streams. Topics that a new shape names are found when they come into being."""

    def __init__(self, settings: Settings, layouts: Layouts, positions: Mapping[Partition, Position]) -> None:
        self._settings = settings
        self._layouts = layouts
        self._positions = positions
        self._consumer = new_consumer(settings.require_kafka(), "worker", {**READING, "group.id": "rowcast"})
        self._next_look = 0.0
        self._missing: list[str] = []
        self._missing_since = 0.0
        self.streams: dict[Partition, Stream] = {}
        self.lost_transactions = False
        """Whether ENDs that were to be read next have been deleted."""
        self.discover()

    def close(self) -> None:
        self._consumer.close()

    def messages(self, timeout: float, most: int) -> list[Any]:
        """Waits for the first message, then takes what else is there: asking for many at once waits for all of them."""
        first: list[Any] = self._consumer.consume(1, timeout)
        if first:
            first += self._consumer.consume(most - 1, 0)
        return first

    def of_kind(self, kind: Kind) -> Iterator[Stream]:
        """The streams of table topics, of the transaction topic, or of the schema topic."""
        return (stream for stream in self.streams.values() if stream.kind == kind)

    def of_table(self, schema_table: str) -> list[Stream]:
        """The streams that hold this table's events; empty if its topic has not been found yet."""
        for shape in self._layouts.shapes():
            if shape.full_name == schema_table:
                topic = self._settings.topic_of(shape.schema, shape.name)
                return [s for s in self.streams.values() if s.partition[0] == topic]
        return []

    def set_targets(self) -> None:
        """Each stream is to be read up to where its partition ends now."""
        for stream in self.streams.values():
            self._set_target(stream)

    def discover(self, *, at_once: bool = False) -> None:
        """Begins to follow partitions that are new. Looks now and then, and often while a topic is missing."""
        now = time.monotonic()
        if not at_once and now < self._next_look:
            return
        topics = self._wanted_topics()
        found = partitions_of(self._consumer, topics)
        new: list[Stream] = []
        for topic, numbers in found.items():
            kind = topics[topic]
            # Transactions and shapes are ordered by being in one partition.
            for number in numbers if kind == "table" else [0]:
                if (topic, number) not in self.streams:
                    new.append(self._begin((topic, number), kind))
        self._assign(new)
        missing = sorted(topics.keys() - found.keys())
        if missing != self._missing:
            self._missing, self._missing_since = missing, now
        self._next_look = now + (_LOOK_FOR_MISSING_S if missing else _LOOK_FOR_PARTITIONS_S)

    @property
    def may_be_found(self) -> bool:
        """Whether topics are missing, and not for so long that nothing will come of it."""
        return bool(self._missing) and time.monotonic() - self._missing_since < _MISSING_GRACE_S

    def _wanted_topics(self) -> dict[str, Kind]:
        source = self._settings.source
        topics: dict[str, Kind] = {self._settings.topic_of(s.schema, s.name): "table" for s in self._layouts.shapes()}
        topics[transaction_topic(source)] = "transaction"
        topics[schema_topic(source)] = "schema"
        return topics

    def _begin(self, partition: Partition, kind: Kind) -> Stream:
        position = self._positions.get(partition)
        stream = Stream(partition, kind, position.next_offset if position else 0, position.lsn if position else 0)
        self._set_target(stream)
        return stream

    def _set_target(self, stream: Stream) -> None:
        low, stream.target = ends(self._consumer, stream.partition)
        if stream.next_offset > stream.target:
            raise DataError(
                f"{stream.where(stream.next_offset)} was to be read next, but the partition ends at {stream.target}: "
                "the topic has been made anew. Rebuild the replica from it: docs/operations.md says how."
            )
        if stream.next_offset < low:
            # Compacted topics begin anywhere; the transaction topic is kept by time.
            self.lost_transactions |= stream.kind == "transaction" and stream.partition in self._positions
            stream.next_offset = low

    def low(self, stream: Stream) -> int:
        """The first offset that is still there."""
        return ends(self._consumer, stream.partition)[0]

    def restart(self, stream: Stream) -> None:
        """Goes on with the first offset that is still there."""
        from confluent_kafka import TopicPartition

        stream.next_offset, _ = ends(self._consumer, stream.partition)
        self._consumer.seek(TopicPartition(*stream.partition, stream.next_offset))

    def _assign(self, streams: list[Stream]) -> None:
        from confluent_kafka import TopicPartition

        if not streams:
            return
        for stream in streams:
            self.streams[stream.partition] = stream
        self._consumer.incremental_assign([TopicPartition(*s.partition, s.next_offset) for s in streams])
        _log.debug(
            "following %s", ", ".join(f"{t}/{p} from {s.next_offset}" for s in streams for t, p in [s.partition])
        )

    def pause(self, stream: Stream) -> None:
        """Stops the flow of a partition; what the client has fetched ahead is fetched again later."""
        from confluent_kafka import TopicPartition

        if not stream.paused:
            stream.paused = True
            self._consumer.pause([TopicPartition(*stream.partition)])

    def resume(self, stream: Stream) -> None:
        """Lets a paused partition flow again."""
        from confluent_kafka import TopicPartition

        if stream.paused:
            stream.paused = False
            self._consumer.resume([TopicPartition(*stream.partition)])
