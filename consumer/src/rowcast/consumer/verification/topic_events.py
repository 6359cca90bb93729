"""Read the topic of one table while a comparison waits: the ends, the unapplied events, and the events of some keys."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rowcast.consumer.events.change import Change, read_change
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.topic_metadata import (
    KAFKA_TIMEOUT_S,
    new_asker,
    partition_ends,
    partitions_of,
    read_shapes,
)
from rowcast.consumer.reading.unapplied import Rest, commit_times
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.clients import unreachable
from rowcast.shared.kafka.topic_names import transaction_topic
from rowcast.shared.tables.shape import TableShape

Ends = Mapping[Partition, int]
"""The offset after the last record of each partition."""


class TopicEvents:
    """The topic of one table. Methods raise UnreachableError."""

    def __init__(self, asker: Any, settings: Settings, shape: TableShape) -> None:
        self._asker = asker
        self._settings = settings
        self._topic = settings.topic_of(shape.schema, shape.name)
        self._layouts = RowLayouts((shape.full_name,))

    def ends(self) -> Ends:
        """Return the present ends of the topic's partitions. Empty if the topic does not exist."""
        found = partitions_of(self._asker, [self._topic])
        partitions = [(topic, number) for topic, numbers in found.items() for number in numbers]
        return {partition: end for partition, (_, end) in partition_ends(self._asker, partitions).items()}

    def are_applied(self, ends: Ends, applied: Mapping[Partition, Position]) -> bool:
        """Return whether a replica with these positions has applied all events before the ends."""
        rests = {}
        for partition, end in ends.items():
            position = applied.get(partition, Position(0, 0))
            if position.next_offset < end:
                rests[partition] = Rest(position.next_offset, end, position.lsn)
        times = commit_times(self._asker, self._existing(rests), transaction_topic(self._settings.source))
        return all(times.get(partition, 0) is None for partition in rests)

    def _existing(self, rests: Mapping[Partition, Rest]) -> dict[Partition, Rest]:
        """Return the rests without records that Kafka has deleted."""
        firsts = partition_ends(self._asker, list(rests))
        return {p: rest._replace(next_offset=max(rest.next_offset, firsts[p][0])) for p, rest in rests.items()}

    def changes(self, since: Ends, until: Mapping[Partition, Position]) -> Iterator[Change]:
        """Return the events at and after the offsets ``since`` that a replica with the positions has applied."""
        from confluent_kafka import KafkaException, TopicPartition

        wanted = {p: (at, until[p].next_offset) for p, at in since.items() if p in until and at < until[p].next_offset}
        wanted |= {p: (0, at.next_offset) for p, at in until.items() if p[0] == self._topic and p not in since}
        if not wanted:
            return
        read_shapes(self._asker, self._settings, self._layouts, lenient=True)
        try:
            self._asker.incremental_assign([TopicPartition(*p, first) for p, (first, _) in wanted.items()])
            yield from self._read({partition: end for partition, (_, end) in wanted.items()})
        except KafkaException as error:
            raise unreachable(self._settings.kafka, error) from error
        finally:
            self._asker.incremental_unassign([TopicPartition(*partition) for partition in wanted])

    def _read(self, ends: dict[Partition, int]) -> Iterator[Change]:
        deadline = time.monotonic() + KAFKA_TIMEOUT_S
        while ends:
            message = self._asker.poll(0.1)
            if message is None:
                if time.monotonic() > deadline:
                    raise unreachable(self._settings.kafka, TimeoutError(f"no answer for topic {self._topic}"))
                continue
            deadline = time.monotonic() + KAFKA_TIMEOUT_S
            partition = message.topic(), message.partition()
            if message.error() is not None:
                # The end of the partition. Control records may be behind the last event.
                ends.pop(partition, None)
                continue
            if partition not in ends:
                continue
            if message.offset() >= ends[partition]:
                del ends[partition]
            elif message.value() is not None and (change := self._change(message, partition)) is not None:
                yield change

    def _change(self, message: Any, partition: Partition) -> Change | None:
        try:
            return read_change(message.key(), message.value(), partition, message.offset(), self._layouts, infer=True)
        except DataError as error:
            raise DataError(
                f"topic {partition[0]}, partition {partition[1]}, offset {message.offset()}: {error}"
            ) from error


@contextmanager
def topic_events(settings: Settings, shape: TableShape) -> Iterator[TopicEvents]:
    """Open the topic of a table."""
    with new_asker(settings) as asker:
        yield TopicEvents(asker, settings, shape)
