"""Find out how far Kafka has committed the transaction topic."""

from __future__ import annotations

from typing import Any

from rowcast.consumer.events.position import Partition
from rowcast.consumer.reading.topic_metadata import READER_CONFIG
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.clients import new_consumer
from rowcast.shared.kafka.messages import parse_transaction
from rowcast.shared.kafka.signature import SignatureCheck

# Start a thousand records before the last record read, because some are control records. A committed BEGIN or END is
# found at once then.
_LOOK_BACK = 1_000


class CommittedTransactions:
    """Follow BEGIN and END as a committed reader, from a little before ``offset``.

    When a committed reader gets a BEGIN or END, every event of a smaller lsn is in its partition: the relay publishes
    in the order of lsns, and Kafka commits all partitions of a transaction together.
    """

    def __init__(self, settings: Settings, partition: Partition, first_offset: int, offset: int) -> None:
        from confluent_kafka import TopicPartition

        own = {
            **READER_CONFIG,
            "group.id": "rowcast",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
        self._consumer: Any = new_consumer(settings.require_kafka(), "worker", own)
        self._consumer.assign([TopicPartition(*partition, max(first_offset, offset - _LOOK_BACK))])
        self._signatures = SignatureCheck(settings.signature_keys)
        self._lsn = 0

    def include(self, lsn: int) -> bool:
        """Return whether a BEGIN or END of at least this lsn is committed. Never wait."""
        while self._lsn < lsn:
            messages = self._consumer.consume(500, 0)
            if not messages:
                return False
            for message in messages:
                if message.error() is None and message.value() is not None:
                    self._signatures.check(message.topic(), message.key(), message.value(), message.headers())
                    self._lsn = max(self._lsn, parse_transaction(message.value()).lsn)
        return True

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()
