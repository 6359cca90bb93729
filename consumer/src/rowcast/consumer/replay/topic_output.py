"""Write replayed transactions to the topics of another source, in Kafka transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from rowcast.consumer.replay.kafka_transactions import KafkaTransactions, Produced, kafka_transactions, rest_of
from rowcast.consumer.replay.replay import NewOutput, WholeTransaction
from rowcast.consumer.replay.stored_message import StoredMessage
from rowcast.consumer.replay.target_topics import TargetTopics
from rowcast.consumer.topics.records import read_record
from rowcast.consumer.topics.source_topics import SourceTopics
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.messages import TOMBSTONE_LSN, transaction_value


def to_topics(settings: Settings, prefix: str) -> NewOutput:
    """Return the output to the topics of source ``prefix``, for ``replay``."""

    @contextmanager
    def output(topics: SourceTopics, viewer: Any) -> Iterator[TopicOutput]:
        target = TargetTopics(settings, prefix, topics, viewer)
        target.create()
        with kafka_transactions(settings, prefix) as transactions:
            out = TopicOutput(transactions, target, target.last_lsn())
            out.write_shapes()
            yield out

    return output


class TopicOutput:
    """Write transactions after ``last_lsn``, several in a Kafka transaction."""

    def __init__(self, transactions: KafkaTransactions, target: TargetTopics, last_lsn: int) -> None:
        self._transactions = transactions
        self._target = target
        self._last_lsn = last_lsn

    def write_shapes(self) -> None:
        """Write the shapes of all tables, before any event. Only the last shape of a table counts."""
        self._transactions.produce(self._target.shapes())
        self._transactions.commit()

    def write(self, transaction: WholeTransaction) -> None:
        """Write a transaction with its BEGIN and END, unless an earlier replay has written it."""
        if transaction.end_event.lsn <= self._last_lsn:
            return
        begin = [] if transaction.begin is None else [self._boundary(transaction.begin, transaction.begin.content)]
        end = self._boundary(transaction.end, _end_value(transaction))
        events = (message for one in transaction.messages for message in self._event(one))
        if transaction.is_snapshot:
            self._transactions.produce(events)
            self._transactions.produce([*begin, end])
        else:
            self._transactions.produce(begin)
            self._transactions.produce(events)
            self._transactions.produce([end])
        self._transactions.commit_if_due()

    def _boundary(self, message: StoredMessage, value: bytes | None) -> Produced:
        return (self._target.transactions, value, message.of_key, 0, *rest_of(message))

    def _event(self, message: StoredMessage) -> Iterator[Produced]:
        """Yield the same event, and a tombstone after a delete."""
        topic = self._target.of[message.of_topic]
        yield (topic, message.content, message.of_key, message.of_partition, *rest_of(message))
        # Parsing costs more than everything else, and few events are deletes.
        event = read_record(message).event if b'"d"' in (message.content or b"") else None
        if event is not None and event.op == "d":
            headers = [(TOMBSTONE_LSN, b"%d" % event.lsn)]
            yield (topic, None, message.of_key, message.of_partition, None, None, 0, headers)


def _end_value(transaction: WholeTransaction) -> bytes | None:
    """Return the value of the END, which counts only the written events."""
    event = transaction.end_event
    if transaction.is_snapshot or (event.data_collections or {}) == transaction.counts:
        return transaction.end.content
    counts = dict(transaction.counts)
    return transaction_value(msgspec.structs.replace(event, event_count=sum(counts.values()), data_collections=counts))
