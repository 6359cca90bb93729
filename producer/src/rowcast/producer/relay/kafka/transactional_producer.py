"""One fencing transactional producer: librdkafka's producer, with the errors of rowcast.

Long calls take a timeout. A call repeated after a timeout continues.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from rowcast.producer.relay.kafka.errors import error_in, to_rowcast_error
from rowcast.producer.relay.kafka.size_limits import SIZE_HINT
from rowcast.producer.relay.messages.envelopes import Message
from rowcast.shared import row_values
from rowcast.shared.errors import DataError, RowcastError
from rowcast.shared.kafka.client_errors import is_login_error
from rowcast.shared.kafka.clients import Properties, new_producer

_log = logging.getLogger("rowcast.relay")

# Timeout of calls whose answer the relay does not need.
_OPTIONAL_ANSWER_S = 1.0
_WAIT_FOR_ROOM_S = 0.005
_POLL_EVERY_MESSAGES = 500
# A broker nearby acknowledges within 1 ms. The relay goes on after this time.
_PUSH_S = 0.005
# A failed transaction is noticed within this time while messages are not acknowledged.
_FLUSH_S = 0.1

# ``produce`` raises these errors after the transaction or the producer has failed.
_FAILED_BEFORE = (KafkaError._STATE, KafkaError._FATAL)

_DEFAULTS = {
    # With a backlog, requests should be large: at 1 ms the brokers needed twice the time for them. Without a backlog,
    # ``push`` sends at once.
    "linger.ms": 20,
    # The producer finds a restarted broker within this time. The default of librdkafka is 10 s.
    "reconnect.backoff.max.ms": 1_000,
}
_REQUIRED = {
    "acks": "all",
    "enable.idempotence": True,
    # The default of Java clients, because all clients must choose the same partition for a key.
    "partitioner": "murmur2_random",
    "delivery.report.only.error": True,
}


_QUEUE_KBYTES = 24 * 1024


def defaults(properties: Properties) -> dict[str, Any]:
    """Return the settings of a relay's producer that ``properties`` do not set."""
    # The producer waits for room while more than this many bytes are not acknowledged. A single larger message would
    # wait for ever, so the queue has room for two messages of the largest size. A relay has two producers.
    largest = int(properties.get("message.max.bytes", 0)) // 1024
    own = {**_DEFAULTS, "queue.buffering.max.kbytes": max(_QUEUE_KBYTES, 2 * largest)}
    return {name: value for name, value in own.items() if name not in properties}


class TransactionalProducer:
    """Send messages in Kafka transactions, under one ``transactional.id``. Any error ends the producer.

    ``begun_at``: when the open Kafka transaction began, by ``time.monotonic``, or None if no transaction is open.
    """

    def __init__(self, properties: Properties, transactional_id: str) -> None:
        own = defaults(properties) | {
            **_REQUIRED,
            "transactional.id": transactional_id,
            "error_cb": _log_error,
            "on_delivery": self._note_failure,
        }
        self._failure: RowcastError | None = None
        self._producer: Producer = new_producer(properties, "relay", own)
        self.begun_at: float | None = None

    def _note_failure(self, error: KafkaError, message: Any) -> None:
        failure = to_rowcast_error(KafkaException(error), f"producing to the topic {message.topic()}")
        if isinstance(failure, DataError):
            failure = _too_large(message.topic(), message.value(), message.key())
        self._failure = self._failure or failure

    def fence(self, timeout: float) -> None:
        """Fence older producers of this ``transactional.id`` (``init_transactions``). Raises KafkaException."""
        self._producer.init_transactions(timeout)

    def ask_for_brokers(self, topic: str, timeout: float) -> None:
        """Ask any broker for the brokers and the topic. Raises KafkaException without an answer."""
        self._producer.list_topics(topic, timeout)

    def send(self, messages: Iterable[Message], renew_lease: Callable[[], None]) -> None:
        """Send messages in the open Kafka transaction, or in a new one. ``flush`` and ``commit`` raise later failures.

        ``renew_lease`` is called while the producer's queue is full. Raises RetriableError, FencedError, or DataError
        for a message too large for the producer.
        """
        if self.begun_at is None:
            self._begin()
        produce = self._producer.produce
        for n, message in enumerate(messages):
            try:
                produce(*message)
            except BufferError:
                self._produce_when_room(message, renew_lease)
            except KafkaException as error:
                raise self._refusal(error, message) from error
            if n % _POLL_EVERY_MESSAGES == 0:
                self.poll(0)
        self.poll(0)

    def _begin(self) -> None:
        try:
            self._producer.begin_transaction()
        except KafkaException as error:
            raise to_rowcast_error(error, "beginning a Kafka transaction") from error
        self.begun_at = time.monotonic()

    def _produce_when_room(self, message: Message, renew_lease: Callable[[], None]) -> None:
        while True:
            # No callback reports room in the queue, because only failed deliveries are reported.
            self.poll(_WAIT_FOR_ROOM_S)
            renew_lease()
            try:
                self._producer.produce(*message)
                return
            except BufferError:
                continue
            except KafkaException as error:
                raise self._refusal(error, message) from error

    def poll(self, timeout: float) -> None:
        """Let the client report failed deliveries. Raises as ``send``."""
        try:
            self._producer.poll(timeout)
        except KafkaException as error:
            raise to_rowcast_error(error, "producing") from error

    def _refusal(self, error: KafkaException, message: Message) -> Exception:
        """Return the error to raise for a message that ``produce`` has refused."""
        reason = to_rowcast_error(error, "producing")
        if isinstance(reason, DataError):
            return _too_large(*message[:3])
        if error_in(error).code() in _FAILED_BEFORE:
            try:
                # The commit cannot succeed. Its error gives the reason of the earlier failure.
                self._producer.commit_transaction(_OPTIONAL_ANSWER_S)
            except KafkaException as cause:
                return to_rowcast_error(cause, "producing")
        return reason

    def push(self) -> bool:
        """Send at once the messages that linger. Return whether all are acknowledged. Raises as ``send``."""
        try:
            return self._producer.flush(_PUSH_S) == 0
        except KafkaException as error:
            raise to_rowcast_error(error, "producing") from error

    def flush(self, timeout: float) -> None:
        """Wait until the brokers have acknowledged all messages.

        Raises KafkaException, also at the timeout, and the errors of ``send`` for an undelivered message.
        """
        left = self._producer.flush(min(timeout, _FLUSH_S))
        if left or self._failure is not None:
            self._raise_if_failed()
        if self._failure is not None:
            raise self._failure
        if left:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{left} messages are not acknowledged"))

    def _raise_if_failed(self) -> None:
        """Raise the error of a failed transaction.

        A failed transaction keeps its messages until their timeout, and ``flush`` does not report the failure.
        """
        try:
            # librdkafka always refuses a second open transaction. If the first one has failed, the refusal says why.
            self._producer.begin_transaction()
        except KafkaException as error:
            reason = error_in(error)
            if reason.fatal() or reason.txn_requires_abort():
                raise self._failure_or(to_rowcast_error(error, "producing")) from error

    def _failure_or(self, reason: RowcastError) -> RowcastError:
        # The report of a failed delivery names the message that is too large.
        return self._failure if isinstance(self._failure, DataError) else reason

    def commit(self, timeout: float) -> None:
        """Commit the open Kafka transaction. Raises KafkaException."""
        self._producer.commit_transaction(timeout)
        self.begun_at = None

    def close(self) -> None:
        """Drop the uncommitted messages, and abort their transaction.

        Readers of committed messages wait until the brokers know of the abort.
        """
        with suppress(KafkaException):
            if self.begun_at is not None:
                self._producer.abort_transaction(_OPTIONAL_ANSWER_S)
        with suppress(KafkaException):
            self._producer.purge()
            self._producer.poll(0)
        # The two objects refer to each other. Without ``del`` the client's threads would live until the next garbage
        # collection.
        del self._producer


def _too_large(topic: str, value: bytes | None, key: bytes) -> DataError:
    size = len(value or b"") + len(key)
    return DataError(
        f"a message of {size:,} bytes for the topic {topic}{row_values.key_suffix(key)} is larger than Kafka takes, "
        "alone or with the messages of its batch. Its transaction is claimed and cannot be parked: "
        f'{SIZE_HINT}, or set "batch.size" there to what the topic takes.'
    )


def _log_error(error: Any) -> None:
    """Log an error of the client. With this callback, the call that meets a fatal error raises the error."""
    _log.log(logging.WARNING if is_login_error(error) else logging.DEBUG, "Kafka client: %s", error.str())
