"""Find records in the topics: the newest wanted records, or the record at a given place."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rowcast.consumer.events.position import Partition
from rowcast.consumer.reading.topic_metadata import KAFKA_TIMEOUT_S, new_viewer, partition_ends, partitions_of
from rowcast.consumer.topics.records import TopicRecord, read_record
from rowcast.consumer.topics.selection import Selection
from rowcast.consumer.topics.source_topics import SourceTopics
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.kafka.clients import unreachable

_FIRST_SPAN = 3
_NEXT_SPAN = 8


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hold the newest wanted records, in the order of their commits.

    ``found``: how many were wanted. ``read``: how many messages were read.
    """

    newest: list[TopicRecord]
    found: int
    read: int


def search(topics: SourceTopics, selection: Selection, limit: int) -> SearchResult:
    """Read the topics up to the present ends, and return the last ``limit`` wanted records."""
    ends = topics.ends()
    starts = {place: first for place, (first, _) in ends.items()}
    if selection.since_ms:
        starts = {place: max(starts[place], offset) for place, offset in topics.since(selection.since_ms).items()}
    return _newest(topics, selection, limit, starts, {place: end for place, (_, end) in ends.items()})


def last_records(topics: SourceTopics, selection: Selection, count: int) -> list[TopicRecord]:
    """Return the last ``count`` wanted records, in the order of their commits."""
    if count == 0:
        return []
    if selection.is_narrow:
        return search(topics, selection, count).newest
    ends = topics.ends()
    span = _FIRST_SPAN * count
    while True:
        # Some of the offsets belong to control records or tombstones, and compaction leaves gaps.
        starts = {place: max(first, end - span) for place, (first, end) in ends.items()}
        found = _newest(topics, selection, count, starts, {place: end for place, (_, end) in ends.items()})
        if found.found >= count or all(starts[place] == first for place, (first, _) in ends.items()):
            return found.newest
        span *= _NEXT_SPAN


def _newest(
    topics: SourceTopics,
    selection: Selection,
    limit: int,
    starts: Mapping[Partition, int],
    ends: Mapping[Partition, int],
) -> SearchResult:
    heap: list[tuple[Any, int, TopicRecord]] = []
    found = read = 0
    last_lsns: dict[Partition, int] = {}
    for message in topics.up_to(ends, starts):
        read += 1
        record = selection.record_of(message)
        if record is None:
            continue
        place = record.topic, record.partition
        if record.event is not None:
            last_lsns[place] = record.event.lsn
        # A tombstone follows the delete of its key.
        order = (last_lsns.get(place, 0), record.event.total_order if record.event else 2**63)
        found += 1
        heapq.heappush(heap, (order, found, record))
        if len(heap) > limit:
            heapq.heappop(heap)
    return SearchResult([record for _, _, record in sorted(heap, key=lambda one: one[:2])], found, read)


def parse_place(text: str) -> tuple[str, int, int]:
    """Return topic, partition and offset. Raise ConfigurationError for another form."""
    topic, _, rest = text.partition(":")
    partition, _, offset = rest.partition(":")
    if not topic or not partition.isdecimal() or not offset.isdecimal():
        raise ConfigurationError(
            f"{text!r} is not a record. Name it as TOPIC:PARTITION:OFFSET, as in shop.main.item:0:17."
        )
    return topic, int(partition), int(offset)


def record_at(settings: Settings, topic: str, partition: int, offset: int) -> TopicRecord:
    """Return the record at a place. Raise ConfigurationError if no record is there, and UnreachableError."""
    from confluent_kafka import TopicPartition

    with new_viewer(settings) as consumer:
        if partition not in partitions_of(consumer, [topic]).get(topic, ()):
            raise ConfigurationError(f"there is no partition {partition} of topic {topic}. See `rowcast topics list`.")
        first, end = partition_ends(consumer, [(topic, partition)])[topic, partition]
        if not first <= offset < end:
            raise ConfigurationError(
                f"topic {topic}, partition {partition} holds the offsets from {first} up to {end - 1}, not {offset}."
            )
        consumer.incremental_assign([TopicPartition(topic, partition, offset)])
        message: Any = consumer.poll(KAFKA_TIMEOUT_S)
        if message is None:
            raise unreachable(settings.kafka, TimeoutError(f"no answer for topic {topic}"))
        if message.error() is not None or message.offset() != offset:
            raise ConfigurationError(
                f"{topic}:{partition}:{offset} is no event: Kafka has compacted it, or keeps a mark of its own there."
            )
        return read_record(message)
