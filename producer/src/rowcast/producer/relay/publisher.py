"""The fencing transactional producer: one transactional.id a source.

A Kafka transaction spans many claims, and ends with the marker (``marker.py``) of its highest lsn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, cast

from confluent_kafka import KafkaError, KafkaException, Producer

from rowcast.producer.relay.envelopes import Message
from rowcast.producer.relay.kafka_errors import error_in, meaning
from rowcast.producer.relay.marker import MarkerReader, marker_message
from rowcast.shared.errors import DataError, RetriableError
from rowcast.shared.kafka import Properties, new_producer

_log = logging.getLogger("rowcast.relay")

_SLICE_S = 1.0
_ROOM_S = 0.005
_LONGEST_S = 60.0
_POLL_EVERY = 500

# Errors that librdkafka does not call retriable. A topic just made is not known everywhere at once.
_PASSING = (
    KafkaError._TIMED_OUT,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
)

# What produce raises once the transaction, or the producer, has failed.
_FAILED_BEFORE = (KafkaError._STATE, KafkaError._FATAL)

_DEFAULTS = {
    "linger.ms": 1,
    # Beyond this many bytes that are not acknowledged, producing waits.
    "queue.buffering.max.kbytes": 65_536,
    # A broker that is back is found again within this time, not librdkafka's 10 s.
    "reconnect.backoff.max.ms": 1_000,
}
_REQUIRED = {
    "acks": "all",
    "enable.idempotence": True,
    # Java's default partitioner, so that other clients partition alike.
    "partitioner": "murmur2_random",
    "delivery.report.only.error": True,
}


class Publisher:
    """One producer from ``init_transactions`` to its end. Any error ends it: what is not committed is published
    again by the next one.

    ``waiting`` is called about once a second while Kafka keeps it waiting: it renews the lease and may raise.
    """

    def __init__(self, properties: Properties, source: str, waiting: Callable[[], None]) -> None:
        self._waiting = waiting
        self._source = source
        self._marker = MarkerReader(properties, source)
        own: dict[str, Any] = {k: v for k, v in _DEFAULTS.items() if k not in properties}
        own |= {**_REQUIRED, "transactional.id": f"rowcast.{source}", "error_cb": _log_error}
        self._producer: Producer = new_producer(properties, "relay", own)
        self._begun_at: float | None = None

    @property
    def begun_at(self) -> float | None:
        """When the open Kafka transaction began, by ``time.monotonic``; None: none is open."""
        return self._begun_at

    def fence(self) -> None:
        """From here on no older producer of this source gets anything through, and what it left open is aborted."""
        self._patiently(self._producer.init_transactions, "fencing the predecessor (init_transactions)")

    def marker(self) -> int | None:
        """The highest lsn that Kafka has committed, after ``fence``; None if it has committed nothing."""
        return cast("int | None", self._patiently(self._marker.read, "reading the marker"))

    def send(self, messages: Iterable[Message]) -> None:
        """Hands messages to the producer, in the open Kafka transaction or a new one; ``commit`` tells of failures.

        Raises RetriableError, FencedError, or DataError for a message larger than the producer takes.
        """
        if self._begun_at is None:
            self._begin()
        produce = self._producer.produce
        for n, message in enumerate(messages):
            try:
                produce(*message)
            except BufferError:
                self._make_room(message)
            except KafkaException as error:
                raise self._refused(error, message) from error
            if n % _POLL_EVERY == 0:
                self._poll(0)
        self._poll(0)

    def _begin(self) -> None:
        try:
            self._producer.begin_transaction()
        except KafkaException as error:
            raise meaning(error, "beginning a Kafka transaction") from error
        self._begun_at = time.monotonic()

    def _make_room(self, message: Message) -> None:
        while True:
            # Nothing tells of room: deliveries are reported only where they fail.
            self._poll(_ROOM_S)
            self._waiting()
            try:
                self._producer.produce(*message)
                return
            except BufferError:
                continue
            except KafkaException as error:
                raise self._refused(error, message) from error

    def _poll(self, timeout: float) -> None:
        try:
            self._producer.poll(timeout)
        except KafkaException as error:
            raise meaning(error, "producing") from error

    def _refused(self, error: KafkaException, message: Message) -> Exception:
        reason = meaning(error, "producing")
        if isinstance(reason, DataError):
            topic, value, key, _ = message
            return DataError(
                f"a message of {len(value or b''):,} bytes for the topic {topic}, key {key.decode()[:200]}, is larger "
                "than the producer takes. Raise message.max.bytes in [kafka], and max.message.bytes of the topic."
            )
        if error_in(error).code() in _FAILED_BEFORE:
            try:
                # It cannot succeed, and only it says why.
                self._producer.commit_transaction(_SLICE_S)
            except KafkaException as cause:
                return meaning(cause, "producing")
        return reason

    def commit(self, lsn: int) -> None:
        """Commits the open Kafka transaction, if there is one, with ``lsn`` as its marker.

        Raises RetriableError, FencedError, or DataError for a message larger than the broker takes.
        """
        if self._begun_at is None:
            return
        # Not send_offsets_to_transaction: it heeds no timeout, and hangs for ever when its coordinator goes away.
        self.send([marker_message(self._source, lsn)])
        self._patiently(self._producer.commit_transaction, "committing the Kafka transaction")
        self._begun_at = None

    def _patiently(self, call: Callable[[float], Any], what: str) -> Any:
        """All these calls may be repeated after a timeout: they go on where they were."""
        start = time.monotonic()
        while True:
            try:
                return call(_SLICE_S)
            except KafkaException as error:
                reason = error_in(error)
                if not reason.retriable() and reason.code() not in _PASSING:
                    raise meaning(error, what) from error
                if time.monotonic() - start > _LONGEST_S:
                    raise RetriableError(f"Kafka did not answer for {_LONGEST_S:.0f} s: {what}") from error
                if reason.code() != KafkaError._TIMED_OUT:
                    time.sleep(_SLICE_S / 10)
            self._waiting()

    def close(self) -> None:
        """Drops what is not committed."""
        with suppress(KafkaException):
            self._producer.purge()
            self._producer.poll(0)


def _log_error(error: Any) -> None:
    """With this in place a fatal error is raised where it is met, not out of a callback."""
    _log.debug("Kafka client: %s", error)
