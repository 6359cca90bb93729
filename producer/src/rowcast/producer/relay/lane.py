"""One fencing transactional producer: what librdkafka does, in the relay's terms.

Calls that may take long heed a timeout and may be repeated after it: they go on where they were.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from rowcast.producer.relay.envelopes import Message
from rowcast.producer.relay.kafka_errors import error_in, meaning
from rowcast.producer.relay.sizes import MEND
from rowcast.shared.errors import DataError, RowcastError
from rowcast.shared.kafka import Properties, new_producer

_log = logging.getLogger("rowcast.relay")

# How long the brokers have for an answer that may be done without.
_REASON_S = 1.0
_ROOM_S = 0.005
_POLL_EVERY = 500
# How long what is sent at once may take before the relay goes on. Where brokers are near, an answer takes 1 ms.
_PUSH_S = 0.005
# How soon it is noticed that a transaction has failed while messages are not acknowledged.
_FLUSH_S = 0.1

# What produce raises once the transaction, or the producer, has failed.
_FAILED_BEFORE = (KafkaError._STATE, KafkaError._FATAL)

_DEFAULTS = {
    # While much is waiting, requests are to be large: at a millisecond the brokers spent twice the time on them. When
    # nothing is, ``push`` sends at once.
    "linger.ms": 20,
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


_QUEUE_KBYTES = 24 * 1024


def defaults(properties: Properties) -> dict[str, Any]:
    """What a relay's producer has unless ``properties`` say otherwise."""
    # Beyond this many bytes that are not acknowledged, producing waits: it would wait for ever with a message that is
    # larger. A relay has two producers.
    largest = int(properties.get("message.max.bytes", 0)) // 1024
    own = {**_DEFAULTS, "queue.buffering.max.kbytes": max(_QUEUE_KBYTES, 2 * largest)}
    return {name: value for name, value in own.items() if name not in properties}


class Lane:
    """One producer, under its own ``transactional.id``. Any error ends it."""

    def __init__(self, properties: Properties, transactional_id: str) -> None:
        own = defaults(properties) | {
            **_REQUIRED,
            "transactional.id": transactional_id,
            "error_cb": _log_error,
            "on_delivery": self._not_delivered,
        }
        self._failure: RowcastError | None = None
        self._producer: Producer = new_producer(properties, "relay", own)
        self.begun_at: float | None = None
        """When the open Kafka transaction began, by ``time.monotonic``; None: none is open."""

    def _not_delivered(self, error: KafkaError, message: Any) -> None:
        failure = meaning(KafkaException(error), f"producing to the topic {message.topic()}")
        if isinstance(failure, DataError):
            failure = _too_large(message.topic(), message.value(), message.key())
        self._failure = self._failure or failure

    def fence(self, timeout: float) -> None:
        """``init_transactions``. Raises KafkaException."""
        self._producer.init_transactions(timeout)

    def send(self, messages: Iterable[Message], waiting: Callable[[], None]) -> None:
        """Hands messages over, in the open Kafka transaction or a new one; ``flush`` and ``commit`` tell of failures.

        ``waiting`` is called while there is no room. Raises RetriableError, FencedError, or DataError for a message
        larger than the producer takes.
        """
        if self.begun_at is None:
            self._begin()
        produce = self._producer.produce
        for n, message in enumerate(messages):
            try:
                produce(*message)
            except BufferError:
                self._make_room(message, waiting)
            except KafkaException as error:
                raise self._refused(error, message) from error
            if n % _POLL_EVERY == 0:
                self.poll(0)
        self.poll(0)

    def _begin(self) -> None:
        try:
            self._producer.begin_transaction()
        except KafkaException as error:
            raise meaning(error, "beginning a Kafka transaction") from error
        self.begun_at = time.monotonic()

    def _make_room(self, message: Message, waiting: Callable[[], None]) -> None:
        while True:
            # Nothing tells of room: deliveries are reported only where they fail.
            self.poll(_ROOM_S)
            waiting()
            try:
                self._producer.produce(*message)
                return
            except BufferError:
                continue
            except KafkaException as error:
                raise self._refused(error, message) from error

    def poll(self, timeout: float) -> None:
        """Lets the client tell what has failed. Raises as ``send``."""
        try:
            self._producer.poll(timeout)
        except KafkaException as error:
            raise meaning(error, "producing") from error

    def _refused(self, error: KafkaException, message: Message) -> Exception:
        reason = meaning(error, "producing")
        if isinstance(reason, DataError):
            return _too_large(*message[:3])
        if error_in(error).code() in _FAILED_BEFORE:
            try:
                # It cannot succeed, and only it says why.
                self._producer.commit_transaction(_REASON_S)
            except KafkaException as cause:
                return meaning(cause, "producing")
        return reason

    def push(self) -> bool:
        """Sends at once what lingers; whether all of it is acknowledged by now. Raises as ``send``."""
        try:
            return self._producer.flush(_PUSH_S) == 0
        except KafkaException as error:
            raise meaning(error, "producing") from error

    def flush(self, timeout: float) -> None:
        """Until the brokers have acknowledged all that was sent.

        Raises KafkaException, also at the timeout; what ``send`` raises if a message was not delivered.
        """
        left = self._producer.flush(min(timeout, _FLUSH_S))
        if left or self._failure is not None:
            self._raise_if_failed()
        if self._failure is not None:
            raise self._failure
        if left:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{left} messages are not acknowledged"))

    def _raise_if_failed(self) -> None:
        """A transaction that has failed keeps its messages until they time out: flushing does not tell."""
        try:
            # Refused in any case: two cannot be open. The refusal says why, if the one that is open has failed.
            self._producer.begin_transaction()
        except KafkaException as error:
            reason = error_in(error)
            if reason.fatal() or reason.txn_requires_abort():
                raise self._failure_or(meaning(error, "producing")) from error

    def _failure_or(self, reason: RowcastError) -> RowcastError:
        # What is too large is named best where it was.
        return self._failure if isinstance(self._failure, DataError) else reason

    def commit(self, timeout: float) -> None:
        """Commits the open Kafka transaction. Raises KafkaException."""
        self._producer.commit_transaction(timeout)
        self.begun_at = None

    def close(self) -> None:
        """Drops what is not committed, and tells the brokers: until then whoever reads committed messages waits."""
        with suppress(KafkaException):
            if self.begun_at is not None:
                self._producer.abort_transaction(_REASON_S)
        with suppress(KafkaException):
            self._producer.purge()
            self._producer.poll(0)
        # It refers to this lane, and the lane to it: its threads would live until Python looks for such circles.
        del self._producer


def _too_large(topic: str, value: bytes | None, key: bytes) -> DataError:
    size = len(value or b"") + len(key)
    return DataError(
        f"a message of {size:,} bytes for the topic {topic}, key {key.decode()[:200]}, is larger than Kafka takes, by "
        "itself or with those it was sent with. Its transaction is claimed, and cannot be parked: "
        f'{MEND}, or set "batch.size" there to what the topic takes.'
    )


def _log_error(error: Any) -> None:
    """With this in place a fatal error is raised where it is met, not out of a callback."""
    _log.debug("Kafka client: %s", error)
