"""Notice that Kafka may have removed unread tombstones.

Compaction removes the older events of a key, and keeps the tombstone of a deleted key for ``delete.retention.ms``. A
replica away for longer keeps rows deleted on the primary, and no message names the rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.rebuild_hint import REBUILD
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.topic_metadata import KAFKA_TIMEOUT_S
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.clients import new_admin

_log = logging.getLogger("rowcast.worker")

# The end of a Kafka transaction takes an offset. A delete and its tombstone are neighbours, so two offsets are missing
# where both were removed.
_MISSING_OFFSETS = 2
# Kafka's default for delete.retention.ms.
_DEFAULT_RETENTION_MS = 86_400_000


class LostDeletes:
    """Look for missing offsets while events go by key, in topics with rows in the replica.

    ``positions``: the partitions with events applied to the replica.
    """

    def __init__(
        self, settings: Settings, positions: Collection[Partition], fetch: Callable[[Settings, str], int | None]
    ) -> None:
        self._settings = settings
        self._topics = {topic for topic, _ in positions}
        self._fetch = fetch
        self._retentions: dict[str, int | None] = {}
        self.known_ms = 0
        """The replica knows all deletes before this time, in milliseconds since 1970. 0: the time is not known."""
        self.known_in: dict[Partition, int] | None = None
        """The same for each partition, in place of ``known_ms``, where the partitions are read independently."""

    def include(self, topics: Collection[str]) -> None:
        """Include topics from which events have been applied since the start."""
        self._topics.update(topics)

    def examine(self, stream: PartitionStream, messages: Sequence[Any]) -> None:
        """Raise DataError if offsets before or between the next messages are missing, and for too long."""
        known_ms = self._known_ms(stream)
        if known_ms and stream.partition[0] in self._topics:
            next_offset = stream.next_offset
            for message in messages:
                offset = message.offset()
                if offset - next_offset >= _MISSING_OFFSETS:
                    self._require_deletes(stream, next_offset, known_ms)
                next_offset = offset + 1
        if self.known_in is not None:
            # Records that come next were written later.
            self.known_in[stream.partition] = max(known_ms, messages[-1].timestamp()[1])

    def note_end(self, stream: PartitionStream) -> None:
        """Note that everything in the partition has been read."""
        if self.known_in is not None:
            self.known_in[stream.partition] = int(time.time() * 1000)

    def _known_ms(self, stream: PartitionStream) -> int:
        return self.known_ms if self.known_in is None else self.known_in.get(stream.partition, 0)

    def examine_end(self, stream: PartitionStream, end: int) -> None:
        """Raise DataError if offsets before the end of the partition are missing, and for too long."""
        known_ms = self._known_ms(stream)
        if known_ms and stream.partition[0] in self._topics and end - stream.next_offset >= _MISSING_OFFSETS:
            self._require_deletes(stream, stream.next_offset, known_ms)

    def _require_deletes(self, stream: PartitionStream, offset: int, known_ms: int) -> None:
        topic = stream.partition[0]
        if topic not in self._retentions:
            self._retentions[topic] = self._fetch(self._settings, topic)
        retention_ms = self._retentions[topic]
        away_ms = int(time.time() * 1000) - known_ms
        if retention_ms is None or away_ms <= retention_ms:
            return
        raise DataError(
            f"{stream.where(offset)}: compaction has removed records that the replica has not read. The replica was "
            f"last up to date {away_ms // 1000} s ago, and the topic keeps deletes for {retention_ms // 1000} s only "
            "(delete.retention.ms and min.compaction.lag.ms). Therefore the replica may have rows that the primary has "
            f"deleted, and the topic no longer shows which rows. {REBUILD}"
        )


def fetch_delete_retention(settings: Settings, topic: str) -> int | None:
    """Return for how many milliseconds the topic keeps a tombstone at least. None: the topic is never compacted."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource

    admin = new_admin(settings.require_kafka(), "worker")
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    [future] = admin.describe_configs([resource], request_timeout=KAFKA_TIMEOUT_S).values()
    try:
        config = future.result()
    except KafkaException as error:
        _log.warning(
            "the settings of topic %s are not known (%s). Assuming that the topic keeps deletes for Kafka's default, "
            "one day. Allow the worker's user to describe the configuration of the topic.",
            topic,
            error.args[0].str(),
        )
        return _DEFAULT_RETENTION_MS
    if "compact" not in config["cleanup.policy"].value:
        return None
    return int(config["delete.retention.ms"].value) + int(config["min.compaction.lag.ms"].value)
