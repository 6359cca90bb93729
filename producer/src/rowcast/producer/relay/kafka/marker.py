"""The marker: the record in Kafka from which a new leader reads how far the source is committed.

The last message of each claim is a marker with the highest lsn of the claim. Markers go to a compacted topic with a
single partition, and only relays read the topic. Kafka commits a marker together with the events of its claim, or not
at all. After fencing the predecessor, a new leader reads the committed markers, and knows the published claims. The
leader also reads the uncommitted markers. Workers may have seen their lsns, so the lsns must not be used again if the
database has lost claims.

Why the relay does not send an offset with the transaction instead: see ``docs/decisions/``.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from rowcast.producer.relay.messages.envelopes import Message
from rowcast.shared import row_values
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.clients import Properties, new_consumer
from rowcast.shared.kafka.topic_names import marker_topic

_KEY = b'{"id":"marker"}'

# Each Kafka transaction, committed or aborted, adds the markers of its claims and a control record to the topic.
_FIRST_READ_RECORDS = 64
_NEXT_READ_FACTOR = 4

_PROPERTIES = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
    # At the end of the topic the broker answers after this time.
    "fetch.wait.max.ms": 10,
}


def marker_message(source: str, lsn: int, timeline: int = 1) -> Message:
    """Return the last message of a claim with the highest lsn ``lsn``. ``timeline``: the timeline of the claim."""
    marker = {"lsn": lsn} if timeline == 1 else {"lsn": lsn, "timeline": timeline}
    return marker_topic(source), orjson.dumps(marker), _KEY, 0


class Markers(NamedTuple):
    """Hold the last markers in Kafka.

    ``committed``: the highest committed lsn. ``sent``: the highest lsn sent, committed or not, because workers read
    uncommitted events. Without a marker the value is None. ``timeline``: the timeline of the last marker.
    """

    committed: int | None
    sent: int | None
    timeline: int = 1


class _Marker(NamedTuple):
    lsn: int
    timeline: int


class MarkerReader:
    """Read the last markers of one source. The caller closes the reader."""

    def __init__(self, properties: Properties, source: str) -> None:
        self._properties = properties
        self._source = source
        self._topic = marker_topic(source)
        self._consumers: dict[str, Consumer] = {}

    def read(self, timeout: float) -> Markers:
        """Return the last markers. The caller can repeat the call after a timeout, on the open connections.

        Raises KafkaException, also if the end of the topic is not reached within ``timeout`` seconds. Raises
        DataError if the last record of the topic is not a marker.
        """
        committed, sent = self._read("read_committed", timeout), self._read("read_uncommitted", timeout)
        timeline = max((marker.timeline for marker in (committed, sent) if marker is not None), default=1)
        return Markers(committed.lsn if committed else None, sent.lsn if sent else None, timeline)

    def _read(self, isolation: str, timeout: float) -> _Marker | None:
        consumer = self._consumer(isolation)
        low, high = self._watermarks(consumer, timeout)
        records = _FIRST_READ_RECORDS
        while True:
            start = max(low, high - records)
            value = _last_value(consumer, TopicPartition(self._topic, 0, start), high, timeout)
            if value is not None or start == low:
                return None if value is None else self._parse(value)
            records *= _NEXT_READ_FACTOR

    def _consumer(self, isolation: str) -> Consumer:
        consumer = self._consumers.get(isolation)
        if consumer is None:
            own = {**_PROPERTIES, "isolation.level": isolation, "group.id": f"rowcast.{self._source}"}
            consumer = self._consumers[isolation] = new_consumer(self._properties, "relay", own)
        return consumer

    def _watermarks(self, consumer: Consumer, timeout: float) -> tuple[int, int]:
        """Return the first offset of the topic and the offset after its last record."""
        try:
            return consumer.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=timeout)
        except KafkaException as error:
            # For a client without permission the topic is unknown. The metadata of the topic holds the real error.
            refusal = consumer.list_topics(self._topic, timeout=timeout).topics[self._topic].error
            if refusal is not None and refusal.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise KafkaException(refusal) from error
            raise

    def close(self) -> None:
        """Close the connections to Kafka."""
        for consumer in self._consumers.values():
            consumer.close()
        self._consumers.clear()

    def _parse(self, value: bytes) -> _Marker:
        try:
            marker = orjson.loads(value)
            return _Marker(int(marker["lsn"]), int(marker.get("timeline", 1)))
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"the last record of the topic {self._topic} is not a marker{row_values.value_suffix(value)}. Only the "
                "relay may write there. Stop every relay and delete the topic. The relay then publishes again whatever "
                "is recorded as not committed."
            ) from error


def _last_value(consumer: Consumer, start: TopicPartition, end: int, timeout: float) -> bytes | None:
    """Read from the offset of ``start`` to the offset ``end``. Return the last value, or None without a record.

    A broker that has just become the leader of the topic gives too small an end for a moment. A marker committed by
    Kafka would then seem lost.
    """
    consumer.assign([start])
    last = None
    while True:
        message = consumer.poll(timeout)
        if message is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the end of the topic was not reached"))
        error = message.error()
        if error is None:
            last = message.value()
        elif error.code() == KafkaError._PARTITION_EOF:
            if (message.offset() or 0) >= end:
                return last
        elif not error.retriable():
            raise KafkaException(error)
