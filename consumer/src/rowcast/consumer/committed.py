"""What Kafka has committed of the transaction topic."""

from __future__ import annotations

from typing import Any

from rowcast.consumer.changes import Partition
from rowcast.consumer.topics import READING
from rowcast.shared.config import Settings
from rowcast.shared.events import parse_transaction
from rowcast.shared.kafka import new_consumer

# As many marks before the place that was read, control records among them, so that a committed one is met at once.
_BACK = 1_000


class CommittedMarks:
    """Follows BEGIN and END as a committed reader, from a little before ``offset``.

    A mark that a committed reader gets says that every event of a smaller lsn is in its partition by now: the relay
    publishes in the order of lsns, and Kafka commits all partitions of a transaction together.
    """

    def __init__(self, settings: Settings, partition: Partition, low: int, offset: int) -> None:
        from confluent_kafka import TopicPartition

        own = {**READING, "group.id": "rowcast", "isolation.level": "read_committed", "auto.offset.reset": "earliest"}
        self._consumer: Any = new_consumer(settings.require_kafka(), "worker", own)
        self._consumer.assign([TopicPartition(*partition, max(low, offset - _BACK))])
        self._lsn = 0

    def reach(self, lsn: int) -> bool:
        """Whether a mark of at least this lsn is committed. Waits for nothing."""
        while self._lsn < lsn:
            messages = self._consumer.consume(500, 0)
            if not messages:
                return False
            for message in messages:
                if message.error() is None and message.value() is not None:
                    self._lsn = max(self._lsn, parse_transaction(message.value()).lsn)
        return True

    def close(self) -> None:
        self._consumer.close()
