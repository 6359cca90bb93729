"""The partitions followed by the reader: the first offset of each, and the paused partitions."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rowcast.consumer.events.added_partitions import partitions_added
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.rebuild_hint import REBUILD_WITH_SNAPSHOT
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.partition_stream import PartitionStream, TopicKind
from rowcast.consumer.reading.topic_metadata import partition_ends, partitions_of
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.topic_names import schema_topic, transaction_topic

_log = logging.getLogger("rowcast.worker")

_MISSING_TOPIC_POLL_S = 0.5
# The relay creates a table's topic before it publishes the table's shape. But Kafka's servers learn of a new topic at
# different times. After five seconds, a missing topic counts as deleted.
_MISSING_GRACE_S = 5.0
_NEW_PARTITION_POLL_S = 60.0


class Subscription:
    """Own the streams of all partitions. The partitions are assigned by hand.

    The topic of a new shape is found as soon as Kafka has created the topic. ``consumer`` fetches events, and ``asker``
    asks for the ends of partitions. Nobody else uses them meanwhile.
    """

    def __init__(self, context: ReaderContext, consumer: Any, asker: Any) -> None:
        self._settings = context.settings
        self._layouts = context.layouts
        self._positions = context.positions
        self._first_lsns = context.first_lsns
        self._ids = context.topic_ids
        self._share = context.share
        self._consumer = consumer
        self._asker = asker
        self._next_discovery = 0.0
        self._missing: list[str] = []
        self._missing_since = 0.0
        self.streams: dict[Partition, PartitionStream] = {}
        self.lost_ends = False
        """Whether ENDs after the replica's position have been deleted from the transaction topic."""
        self.discover()

    def poll(self, timeout: float, limit: int) -> list[Any]:
        """Wait for the first message, then return all messages already in the client.

        A single request for many messages would wait for the full number.
        """
        messages: list[Any] = self._consumer.consume(1, timeout)
        if messages:
            messages += self._consumer.consume(limit - 1, 0)
        return messages

    def streams_of_kind(self, kind: TopicKind) -> Iterator[PartitionStream]:
        """Return the streams of the table topics, of the transaction topic, or of the schema topic."""
        return (stream for stream in self.streams.values() if stream.kind == kind)

    def streams_of_table(self, full_name: str) -> list[PartitionStream]:
        """Return the streams with the events of ``schema.table``, or no stream if its topic has not been found yet."""
        for shape in self._layouts.latest_shapes():
            if shape.full_name == full_name:
                topic = self._settings.topic_of(shape.schema, shape.name)
                return [s for s in self.streams.values() if s.partition[0] == topic]
        return []

    def set_targets(self) -> None:
        """Look for new partitions, and set each stream's target to the present end of its partition."""
        self.discover(at_once=True)
        self._refresh_asker()
        self._set_targets(self.streams.values())

    def _refresh_asker(self) -> None:
        """Let the asker learn the present partitions and leaders. It would refuse to ask for a new partition."""
        partitions_of(self._asker, ())

    def discover(self, *, at_once: bool = False) -> None:
        """Follow new partitions. Look for them from time to time, and often while a topic is missing."""
        now = time.monotonic()
        if not at_once and now < self._next_discovery:
            return
        topics = self._wanted_topics()
        # Poll, because the client keeps its log until then.
        self._asker.poll(0)
        # The consumer makes the request, because its fetches begin at once only if the consumer knows the partitions'
        # leaders.
        found = partitions_of(self._consumer, topics)
        self._require_partitions(found)
        self._require_counts(found)
        self._ids.compare([topic for topic in found if (topic, 0) not in self.streams])
        new: list[PartitionStream] = []
        for topic, numbers in found.items():
            kind = topics[topic]
            # Transactions and shapes are in partition 0 alone, because order matters.
            for number in numbers if kind == "table" else [0]:
                if (topic, number) not in self.streams and self._is_wanted((topic, number), kind):
                    new.append(self._new_stream((topic, number), kind))
        if new:
            self._refresh_asker()
            self._set_targets(new)
            self._assign(new)
        missing = sorted(topics.keys() - found.keys())
        if missing != self._missing:
            self._missing, self._missing_since = missing, now
        self._next_discovery = now + (_MISSING_TOPIC_POLL_S if missing else _NEW_PARTITION_POLL_S)

    @property
    def awaits_topics(self) -> bool:
        """Return whether topics are missing that may still appear."""
        return bool(self._missing) and time.monotonic() - self._missing_since < _MISSING_GRACE_S

    def _wanted_topics(self) -> dict[str, TopicKind]:
        source = self._settings.source
        topics: dict[str, TopicKind] = {}
        for shape in self._layouts.latest_shapes():
            topics[self._settings.topic_of(shape.schema, shape.name)] = "table"
        if self._share is None:
            topics[transaction_topic(source)] = "transaction"
        else:
            topics = {topic: kind for topic, kind in topics.items() if topic in self._share.topics}
        topics[schema_topic(source)] = "schema"
        return topics

    def _is_wanted(self, partition: Partition, kind: TopicKind) -> bool:
        return kind != "table" or self._share is None or partition in self._share.partitions

    def compare_ids(self, *, at_once: bool = False) -> None:
        """Raise DataError if a topic was deleted and created again.

        Compare once a second without waiting, or ``at_once`` and wait.
        """
        topics = {stream.partition[0] for stream in self.streams.values() if stream.kind != "schema"}
        if at_once:
            self._ids.compare(topics)
        else:
            self._ids.compare_sometimes(topics)

    def _require_partitions(self, found: Mapping[str, Collection[int]]) -> None:
        """Raise DataError if a partition with a position is gone, because Kafka never removes a single partition."""
        for topic, number in self._positions:
            if topic in found and number not in found[topic]:
                raise DataError(
                    f"topic {topic} has no partition {number}, from which the replica has applied events, so the topic "
                    f"was deleted and created again. {REBUILD_WITH_SNAPSHOT}"
                )

    def _require_counts(self, found: Mapping[str, Collection[int]]) -> None:
        """Raise DataError if a topic that several workers follow has got more partitions."""
        if self._share is None:
            return
        for topic, count in self._share.counts.items():
            if len(found.get(topic, ())) > count:
                raise partitions_added(topic, count, len(found[topic]))

    def all_ends(self) -> dict[Partition, int]:
        """Return the present end of each partition of the topics that the workers of a group follow."""
        counts = {} if self._share is None else self._share.counts
        self._refresh_asker()
        partitions = [(topic, number) for topic, count in counts.items() for number in range(count)]
        return {partition: end for partition, (_, end) in partition_ends(self._asker, partitions).items()}

    def _new_stream(self, partition: Partition, kind: TopicKind) -> PartitionStream:
        position = self._positions.get(partition, Position(0, 0))
        # The lsns of earlier timelines count as read.
        first_lsn = self._first_lsns.get(partition[0], 0)
        lsn = max(position.lsn, first_lsn - 1, self._layouts.notes.first_lsn - 1)
        return PartitionStream(partition, kind, position.next_offset, lsn, first_lsn=first_lsn)

    def _set_targets(self, streams: Collection[PartitionStream]) -> None:
        ends = partition_ends(self._asker, [stream.partition for stream in streams])
        for stream in streams:
            self._set_target(stream, *ends[stream.partition])

    def _set_target(self, stream: PartitionStream, first: int, end: int) -> None:
        stream.target = end
        if stream.next_offset > end:
            self._handle_lost_end(stream, end)
        if stream.next_offset < first:
            self._handle_lost_head(stream, first)
            stream.next_offset = first

    def _handle_lost_end(self, stream: PartitionStream, end: int) -> None:
        """Raise DataError, because the partition has lost records that were read."""
        if stream.kind == "schema":
            # The shapes that were read are still known, and the new records of the topic are read from the beginning.
            stream.next_offset = 0
            return
        is_same_topic = self._ids.is_known(stream.partition[0])
        raise DataError(
            f"{stream.where(stream.next_offset)} was to be read next, but the partition ends at {end}, so "
            f"{'Kafka has lost the last records' if is_same_topic else 'the topic was deleted and created again'}. "
            f"{REBUILD_WITH_SNAPSHOT}"
        )

    def _handle_lost_head(self, stream: PartitionStream, first: int) -> None:
        """Raise DataError if records were deleted that the replica has not applied."""
        has_position = stream.partition in self._positions or stream.partition in self.streams
        if stream.kind == "transaction":
            # The topic loses its oldest records by time. The rows are still in the topics of the tables.
            self.lost_ends |= has_position
        elif stream.kind == "table" and has_position:
            raise DataError(
                f"{stream.where(stream.next_offset)} was to be read next, but the partition begins at {first} now: "
                f"{first - stream.next_offset} offsets were deleted, by the topic's retention or by an operator, and "
                f"the replica lacks their events. {REBUILD_WITH_SNAPSHOT}"
            )
        elif stream.kind == "table":
            _log.warning(
                "topic %s, partition %d begins at offset %d: the replica lacks rows that have not changed since. "
                "Publish them with rowcast snapshot",
                *stream.partition,
                first,
            )

    def first_offset(self, stream: PartitionStream) -> int:
        """Return the first offset that the partition still has."""
        first, _ = partition_ends(self._asker, [stream.partition])[stream.partition]
        return first

    def restart(self, stream: PartitionStream) -> None:
        """Continue with the first offset that the partition still has.

        Raise DataError if unapplied records were deleted, or if the topic was created again.
        """
        self.compare_ids(at_once=True)
        self._set_targets([stream])
        self.seek(stream)

    def seek(self, stream: PartitionStream) -> None:
        """Read on from the stream's ``next_offset``."""
        from confluent_kafka import TopicPartition

        # First, because resuming a partition can bring the client back to the offset before the pause.
        self.resume(stream)
        self._consumer.seek(TopicPartition(*stream.partition, stream.next_offset))

    def _assign(self, streams: list[PartitionStream]) -> None:
        from confluent_kafka import TopicPartition

        if not streams:
            return
        for stream in streams:
            stream.start = stream.position
            self.streams[stream.partition] = stream
        self._consumer.incremental_assign([TopicPartition(*s.partition, s.next_offset) for s in streams])
        _log.debug(
            "following %s", ", ".join(f"{t}/{p} from {s.next_offset}" for s in streams for t, p in [s.partition])
        )

    def pause(self, stream: PartitionStream) -> None:
        """Stop fetching a partition. The client drops prefetched messages and fetches again later."""
        from confluent_kafka import TopicPartition

        if not stream.paused:
            stream.paused = True
            self._consumer.pause([TopicPartition(*stream.partition)])

    def resume(self, stream: PartitionStream) -> None:
        """Fetch a paused partition again, unless reading it has ended for good."""
        from confluent_kafka import TopicPartition

        if stream.paused and not stream.is_cut:
            stream.paused = False
            self._consumer.resume([TopicPartition(*stream.partition)])

    def end_before(self, stream: PartitionStream, offset: int) -> None:
        """Read nothing of the partition from ``offset`` on. Everything before has been read."""
        stream.next_offset, stream.limit, stream.at_end = offset, offset, True
        self.pause(stream)
