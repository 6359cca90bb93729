"""The marker: how far Kafka has committed a source, told by Kafka itself.

The last message of every claim says its highest lsn, in a compacted topic of one partition that nobody else reads. So
it is committed with the events or not at all, and a successor that reads committed messages after it has fenced its
predecessor knows which recorded claims are published. What was sent and not committed tells which lsns workers have
seen: where the database has lost claims, these must not come again.

Why not an offset sent with the transaction: see ``docs/decisions/``.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from rowcast.producer.relay.envelopes import Message
from rowcast.shared.errors import DataError
from rowcast.shared.events import marker_topic
from rowcast.shared.kafka import Properties, new_consumer

_KEY = b'{"id":"marker"}'

# A Kafka transaction leaves its claims' markers and its own mark in the topic; an aborted one, too.
_LOOK_BACK = 64

_OWN = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
    # How long the broker keeps a reader waiting that is at the end.
    "fetch.wait.max.ms": 10,
}


def marker_message(source: str, lsn: int) -> Message:
    """The message that ends a claim whose highest lsn is ``lsn``."""
    return marker_topic(source), orjson.dumps({"lsn": lsn}), _KEY, 0


class Markers(NamedTuple):
    """The highest lsns of the claims that Kafka has committed, and of those that were sent, which workers have seen;
    None: of none."""

    committed: int | None
    sent: int | None


class MarkerReader:
    """Reads the last markers of one source. To be closed."""

    def __init__(self, properties: Properties, source: str) -> None:
        self._properties = properties
        self._source = source
        self._topic = marker_topic(source)
        self._consumers: dict[str, Consumer] = {}

    def read(self, timeout: float) -> Markers:
        """May be called again after it has timed out: it goes on with the connections that it has.

        Raises KafkaException, also when the end is not reached within ``timeout`` seconds; DataError if the topic holds
        something else.
        """
        return Markers(self._read("read_committed", timeout), self._read("read_uncommitted", timeout))

    def _read(self, isolation: str, timeout: float) -> int | None:
        consumer = self._consumers.get(isolation)
        if consumer is None:
            own = {**_OWN, "isolation.level": isolation, "group.id": f"rowcast.{self._source}"}
            consumer = self._consumers[isolation] = new_consumer(self._properties, "relay", own)
        low, high = consumer.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=timeout)
        look_back = _LOOK_BACK
        while True:
            start = max(low, high - look_back)
            value = _last_value(consumer, TopicPartition(self._topic, 0, start), timeout)
            if value is not None or start == low:
                return None if value is None else self._lsn(value)
            look_back *= 4

    def close(self) -> None:
        """Lets go of its connections."""
        for consumer in self._consumers.values():
            consumer.close()
        self._consumers.clear()

    def _lsn(self, value: bytes) -> int:
        try:
            return int(orjson.loads(value)["lsn"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"the topic {self._topic} ends with {value[:100]!r}, which is no marker. Only the relay may write "
                "there. Delete the topic while no relay runs: what is recorded as not committed is published again."
            ) from error


def _last_value(consumer: Consumer, start: TopicPartition, timeout: float) -> bytes | None:
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
            return last
        elif not error.retriable():
            raise KafkaException(error)
