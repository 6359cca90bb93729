"""Read a topic's last events again, to find the newest event of each key."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from rowcast.consumer.events.change import Change, read_change
from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.tombstone import Tombstone, TombstoneReader
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.topic_metadata import KAFKA_TIMEOUT_S, new_asker, partition_ends
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.clients import unreachable

# The number of repeated events between events of greater lsns is at most this.
_LOOK = 20_000
_BATCH = 500
# A relay repeats at most the claims not committed by Kafka, and these are fewer events.
_MAX_LOOK = 1_000_000


def read_newest(
    settings: Settings, layouts: RowLayouts, streams: Collection[PartitionStream], lsn: int
) -> tuple[dict[bytes, int], bool]:
    """Return the greatest lsn of each key with a read event above ``lsn``.

    ``streams``: all of a topic. Also return whether every partition was read far enough. Raise UnreachableError if
    Kafka does not answer.
    """
    newest: dict[bytes, int] = {}
    is_complete = True
    with new_asker(settings) as asker:
        ends = partition_ends(asker, [stream.partition for stream in streams])
        reader = _Reader(settings, layouts, asker)
        for stream in streams:
            is_complete &= reader.read_back(stream, ends[stream.partition][0], lsn, newest)
    return newest, is_complete


class _Reader:
    def __init__(self, settings: Settings, layouts: RowLayouts, asker: Any) -> None:
        self._settings = settings
        self._layouts = layouts
        self._asker = asker
        self._tombstones = TombstoneReader(layouts, settings.topic_of)

    def read_back(self, stream: PartitionStream, first: int, lsn: int, newest: dict[bytes, int]) -> bool:
        """Add the events of a partition with greater lsns, read backwards until no more are found.

        Return False if more events may exist. Repeated events have smaller lsns than earlier events.
        """
        until, was_found = stream.next_offset, stream.lsn <= lsn
        while until > first and stream.next_offset - until < _MAX_LOOK:
            start = max(first, until - _LOOK)
            greater = [c for c in self._changes(stream.partition, start, until) if c.lsn > lsn]
            if was_found and not greater:
                return True
            was_found |= bool(greater)
            for change in greater:
                newest[change.key] = max(change.lsn, newest.get(change.key, 0))
            until = start
        return until <= first

    def _changes(self, partition: Partition, start: int, end: int) -> Iterator[Change]:
        for message in self._messages(partition, start, end):
            try:
                if message.value() is None:
                    change = self._tombstones.read(message, None, partition)
                else:
                    change = read_change(
                        message.key(), message.value(), partition, message.offset(), self._layouts, infer=True
                    )
            except DataError:
                continue  # The message was left out when it was read.
            if change is not None and not isinstance(change, Tombstone):
                yield change

    def _messages(self, partition: Partition, start: int, end: int) -> Iterator[Any]:
        from confluent_kafka import TopicPartition

        self._asker.assign([TopicPartition(*partition, start)])
        next_offset = start
        while next_offset < end:
            # A single request for many messages would wait for the full number.
            messages = self._asker.consume(1, KAFKA_TIMEOUT_S)
            if not messages:
                raise unreachable(self._settings.kafka, TimeoutError(f"no answer for topic {partition[0]}"))
            messages += self._asker.consume(_BATCH, 0)
            for message in messages:
                if message.error() is not None or message.offset() >= end:
                    return
                next_offset = message.offset() + 1
                yield message
