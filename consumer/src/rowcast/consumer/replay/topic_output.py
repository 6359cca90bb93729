"""Write replayed transactions to the topics of another source, in Kafka transactions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import msgspec

from rowcast.consumer.replay.replay import NewOutput, WholeTransaction
from rowcast.consumer.replay.stored_message import StoredMessage
from rowcast.consumer.replay.target_topics import TargetTopics
from rowcast.consumer.topics.records import read_record
from rowcast.consumer.topics.source_topics import SourceTopics
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, RetriableError
from rowcast.shared.kafka.clients import new_producer
from rowcast.shared.kafka.messages import TOMBSTONE_LSN, transaction_value
from rowcast.shared.kafka.signature import HEADER, Signer

_TIMEOUT_S = 30.0
_COMMIT_S = 1.0
_COMMIT_MESSAGES = 20_000
_POLL_S = 0.1

Produced = tuple[Any, ...]
"""The arguments of ``Producer.produce``."""


def to_topics(settings: Settings, prefix: str) -> NewOutput:
    """Return the output to the topics of source ``prefix``, for ``replay``."""

    @contextmanager
    def output(topics: SourceTopics, viewer: Any) -> Iterator[TopicOutput]:
        target = TargetTopics(settings, prefix, topics, viewer)
        with _translated_errors(prefix):
            target.create()
            producer = new_producer(
                settings.require_kafka(),
                "worker",
                {"transactional.id": f"rowcast-replay-{prefix}", "enable.idempotence": True, "acks": "all"},
            )
            # Fences another replay to the topics, and aborts the open Kafka transaction of a killed replay.
            producer.init_transactions(_TIMEOUT_S)
            out = TopicOutput(producer, Signer(prefix, settings.signature_keys), target, target.last_lsn())
            out.write_shapes()
            try:
                yield out
            except BaseException:
                out.abort()
                raise
            out.commit()

    return output


class TopicOutput:
    """Write transactions after ``last_lsn``, several in a Kafka transaction."""

    def __init__(self, producer: Any, signer: Signer, target: TargetTopics, last_lsn: int) -> None:
        self._producer = producer
        self._signer = signer
        self._target = target
        self._last_lsn = last_lsn
        self._open_messages = 0
        self._opened = 0.0

    def write_shapes(self) -> None:
        """Write the shapes of all tables, before any event. Only the last shape of a table counts."""
        self._produce(self._target.shapes())
        self.commit()

    def write(self, transaction: WholeTransaction) -> None:
        """Write a transaction with BEGIN and END, unless written by an earlier replay."""
        if transaction.end_event.lsn <= self._last_lsn:
            return
        begin = [] if transaction.begin is None else [self._boundary(transaction.begin, transaction.begin.content)]
        end = self._boundary(transaction.end, _end_value(transaction))
        events = (message for one in transaction.messages for message in self._event(one))
        if transaction.is_snapshot:
            self._produce(events)
            self._produce([*begin, end])
        else:
            self._produce(begin)
            self._produce(events)
            self._produce([end])
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

    def _boundary(self, message: StoredMessage, value: bytes | None) -> Produced:
        return (self._target.transactions, value, message.of_key, 0, *_rest(message))

    def _event(self, message: StoredMessage) -> Iterator[Produced]:
        """Yield the same event, and a tombstone after a delete."""
        topic = self._target.of[message.of_topic]
        yield (topic, message.content, message.of_key, message.of_partition, *_rest(message))
        # Parsing costs more than everything else, and few events are deletes.
        event = read_record(message).event if b'"d"' in (message.content or b"") else None
        if event is not None and event.op == "d":
            headers = [(TOMBSTONE_LSN, b"%d" % event.lsn)]
            yield (topic, None, message.of_key, message.of_partition, None, None, 0, headers)

    def _produce(self, messages: Iterable[Produced]) -> None:
        unsent = iter(self._signer.signed(messages))
        # Without a message, no Kafka transaction is begun.
        for first in islice(unsent, 1):
            if not self._open_messages:
                self._producer.begin_transaction()
                self._opened = time.monotonic()
            self._send(first)
            for message in unsent:
                self._send(message)

    def _send(self, message: Produced) -> None:
        while True:
            try:
                self._producer.produce(*message)
                break
            except BufferError:
                self._producer.poll(_POLL_S)
        self._open_messages += 1
        self._producer.poll(0)


def _rest(message: StoredMessage) -> tuple[Any, ...]:
    """Return the last arguments of ``Producer.produce``: the headers, without a signature for another topic."""
    return None, None, 0, [header for header in message.with_headers if header[0] != HEADER]


def _end_value(transaction: WholeTransaction) -> bytes | None:
    """Return the value of the END, which counts only the written events."""
    event = transaction.end_event
    if transaction.is_snapshot or (event.data_collections or {}) == transaction.counts:
        return transaction.end.content
    counts = dict(transaction.counts)
    return transaction_value(msgspec.structs.replace(event, event_count=sum(counts.values()), data_collections=counts))


@contextmanager
def _translated_errors(prefix: str) -> Iterator[None]:
    """Raise the errors of Kafka's client as errors of rowcast."""
    from confluent_kafka import KafkaException

    try:
        yield
    except KafkaException as error:
        fault = error.args[0]
        if fault.name() in ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", "TOPIC_AUTHORIZATION_FAILED"):
            raise ConfigurationError(
                f"the user of [kafka] may not write to the topics of {prefix}: {fault.str()}. Give it the rights to "
                f"write there, and to use the transactional id rowcast-replay-{prefix}."
            ) from error
        raise RetriableError(
            f"writing to the topics of {prefix} has failed: {fault.str()}. Run the same command again: it goes on "
            "after the last transaction that Kafka has committed"
        ) from error
