"""Write messages in Kafka transactions, several of the source's transactions in one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from rowcast.consumer.replay.stored_message import StoredMessage
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, RetriableError
from rowcast.shared.kafka.clients import new_producer
from rowcast.shared.kafka.signature import HEADER, Signer

_TIMEOUT_S = 30.0
_COMMIT_S = 1.0
_COMMIT_MESSAGES = 20_000
_POLL_S = 0.1

Produced = tuple[Any, ...]
"""The arguments of ``Producer.produce``."""


@contextmanager
def kafka_transactions(settings: Settings, target: str) -> Iterator[KafkaTransactions]:
    """Yield the writer, and commit at the end of the block. An error aborts what was written since the last commit.

    ``target``: the prefix or the topic that is written to. Raise ConfigurationError without the rights to write there.
    Raise RetriableError for a failed write.
    """
    with _translated_errors(target):
        producer = new_producer(
            settings.require_kafka(),
            "worker",
            {"transactional.id": f"rowcast-replay-{target}", "enable.idempotence": True, "acks": "all"},
        )
        # Fences another replay to the same topics, and aborts what a killed one has left open.
        producer.init_transactions(_TIMEOUT_S)
        transactions = KafkaTransactions(producer, Signer(target, settings.signature_keys))
        try:
            yield transactions
        except BaseException:
            transactions.abort()
            raise
        transactions.commit()


class KafkaTransactions:
    """Write messages, and commit once a second or when there are many."""

    def __init__(self, producer: Any, signer: Signer) -> None:
        self._producer = producer
        self._signer = signer
        self._open_messages = 0
        self._opened = 0.0

    def produce(self, messages: Iterable[Produced]) -> None:
        """Write messages, signed if their topic is."""
        unsent = iter(self._signer.signed(messages))
        # Without a message, no Kafka transaction is begun.
        for first in islice(unsent, 1):
            if not self._open_messages:
                self._producer.begin_transaction()
                self._opened = time.monotonic()
            self._send(first)
            for message in unsent:
                self._send(message)

    def commit_if_due(self) -> None:
        """Commit if enough was written. Call this between two transactions of the source."""
        if self._open_messages >= _COMMIT_MESSAGES or time.monotonic() - self._opened > _COMMIT_S:
            self.commit()

    def commit(self) -> None:
        """Let Kafka show everything that was written."""
        if self._open_messages:
            self._producer.commit_transaction(_TIMEOUT_S)
            self._open_messages = 0

    def abort(self) -> None:
        """Let Kafka show nothing of what was written since the last commit."""
        if self._open_messages:
            self._producer.abort_transaction(_TIMEOUT_S)
            self._open_messages = 0

    def _send(self, message: Produced) -> None:
        while True:
            try:
                self._producer.produce(*message)
                break
            except BufferError:
                self._producer.poll(_POLL_S)
        self._open_messages += 1
        self._producer.poll(0)


def rest_of(message: StoredMessage) -> tuple[Any, ...]:
    """Return the last arguments of ``Producer.produce``: the headers, without a signature for another topic."""
    return None, None, 0, [header for header in message.with_headers if header[0] != HEADER]


@contextmanager
def _translated_errors(target: str) -> Iterator[None]:
    """Raise the errors of Kafka's client as errors of rowcast."""
    from confluent_kafka import KafkaException

    try:
        yield
    except KafkaException as error:
        fault = error.args[0]
        if fault.name() in ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", "TOPIC_AUTHORIZATION_FAILED"):
            raise ConfigurationError(
                f"the user of [kafka] may not write to the topics of {target}: {fault.str()}. Give it the rights to "
                f"write there, and to use the transactional id rowcast-replay-{target}."
            ) from error
        raise RetriableError(
            f"writing to the topics of {target} has failed: {fault.str()}. Run the same command again: it goes on "
            "after the last transaction that Kafka has committed"
        ) from error
