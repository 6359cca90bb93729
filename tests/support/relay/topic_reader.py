"""Read the topics of a source like each kind of consumer, and check the messages."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jsonschema
import orjson
from confluent_kafka import Consumer, KafkaError, TopicPartition

from rowcast.shared.kafka.messages import ChangeEvent, TransactionEvent, parse_change, parse_transaction
from rowcast.shared.kafka.topic_names import schema_topic, transaction_topic
from servers.wait_until_settled import wait_until_settled
from support.project import REFERENCE

Isolation = Literal["read_committed", "read_uncommitted"]


@dataclass(frozen=True)
class TopicMessage:
    topic: str
    partition: int
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Published:
    """Hold all messages of a source, in order within each partition."""

    source: str
    messages: Sequence[TopicMessage]

    @property
    def shapes(self) -> list[TopicMessage]:
        return [m for m in self.messages if m.topic == schema_topic(self.source)]

    @property
    def stream(self) -> list[ChangeEvent | TransactionEvent]:
        """Return events, BEGIN and END of all topics by lsn.

        Raises AssertionError if the lsns of a partition do not strictly rise.
        """
        found: list[ChangeEvent | TransactionEvent] = []
        highest: dict[tuple[str, int], int] = defaultdict(int)
        for message in self.messages:
            event = self._event(message)
            if event is not None:
                place = message.topic, message.partition
                assert event.lsn > highest[place], f"lsn {event.lsn} after {highest[place]} in {place}"
                highest[place] = event.lsn
                found.append(event)
        return sorted(found, key=lambda event: event.lsn)

    def by_lsn_rule(self) -> Published:
        """Return the messages for a reader with the lsn rule.

        The reader skips each message whose lsn is not above its partition's highest lsn.
        """
        kept = []
        highest: dict[tuple[str, int], int] = defaultdict(int)
        skipped = False
        for message in self.messages:
            event = self._event(message)
            place = message.topic, message.partition
            if event is None:
                # A tombstone is kept or skipped together with its delete.
                if not skipped or message.topic == schema_topic(self.source):
                    kept.append(message)
                continue
            skipped = event.lsn <= highest[place]
            if not skipped:
                highest[place] = event.lsn
                kept.append(message)
        return Published(self.source, kept)

    def _event(self, message: TopicMessage) -> ChangeEvent | TransactionEvent | None:
        if message.value is None or message.topic == schema_topic(self.source):
            return None
        if message.topic == transaction_topic(self.source):
            return parse_transaction(message.value)
        return parse_change(message.key, message.value)


def read_topics(bootstrap_servers: str, source: str, isolation: Isolation) -> Published:
    """Read everything up to the ends of the topics."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": uuid.uuid4().hex,
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            # At the end of a partition the broker answers after this time. The default is 500 ms.
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        topics = consumer.list_topics(timeout=10).topics
        places = {
            (name, partition)
            for name, topic in topics.items()
            if _belongs(name, source)
            for partition in topic.partitions
        }
        if isolation == "read_committed":
            wait_until_settled(bootstrap_servers, places)
        consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in places])
        messages = []
        while places:
            message = consumer.poll(30)
            assert message is not None, f"no end of {places} within 30 s"
            place = str(message.topic()), int(message.partition() or 0)
            error = message.error()
            if error is None:
                headers: Any = message.headers() or ()
                messages.append(TopicMessage(*place, message.key() or b"", message.value(), tuple(headers)))
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                places.discard(place)
        return Published(source, messages)
    finally:
        consumer.close()


def _belongs(topic: str, source: str) -> bool:
    return topic.startswith(f"{source}.")


def assert_as_documented(published: Published) -> None:
    """Check every message against the JSON Schema of its kind, and the presence of every kind."""
    checked = set()
    for message in published.messages:
        kind = {
            schema_topic(published.source): "table-shape",
            transaction_topic(published.source): "transaction-event",
        }.get(message.topic, "change-event")
        if message.value is not None:
            jsonschema.validate(orjson.loads(message.value), _SCHEMAS[kind])
        if kind == "change-event":
            jsonschema.validate(orjson.loads(message.key), _SCHEMAS["change-key"])
        checked.add(kind)
    assert checked == {"change-event", "transaction-event", "table-shape"}


_SCHEMAS = {
    name: orjson.loads((REFERENCE / f"{name}.schema.json").read_bytes())
    for name in ("change-key", "change-event", "transaction-event", "table-shape")
}


def assert_whole_transactions(stream: Sequence[ChangeEvent | TransactionEvent]) -> None:
    """Check that lsns are consecutive from 1, and that each transaction is BEGIN, events, END with the right counts."""
    assert [event.lsn for event in stream] == list(range(1, len(stream) + 1))
    tx, counts, seen = None, dict[str, int](), set[str]()
    for event in stream:
        if isinstance(event, ChangeEvent):
            assert event.transaction == tx
            counts[event.full_name] = counts.get(event.full_name, 0) + 1
            assert event.total_order == sum(counts.values())
        elif event.status == "BEGIN":
            assert tx is None
            assert event.id not in seen
            tx, counts = event.id, {}
            seen.add(tx)
        else:
            assert (event.id, event.event_count, event.data_collections) == (tx, sum(counts.values()), counts)
            tx = None
    assert tx is None, f"transaction {tx} has no END"


def notes_by_key(events: Iterable[ChangeEvent | TransactionEvent]) -> dict[int, list[int]]:
    """Return the numbers in the row images of each counter, in order."""
    notes: dict[int, list[int]] = defaultdict(list)
    for event in events:
        if isinstance(event, ChangeEvent):
            assert event.after is not None
            notes[event.key["id"]].append(int(event.after["note"]))
    return dict(notes)


def last_images(published: Published) -> dict[tuple[str, bytes], bytes]:
    """Return the rows after compaction: the last message of each key, except tombstones."""
    last: dict[tuple[str, bytes], bytes | None] = {}
    for message in published.messages:
        if message.topic not in (schema_topic(published.source), transaction_topic(published.source)):
            last[message.topic, message.key] = message.value
    return {place: orjson.dumps(orjson.loads(value)["after"]) for place, value in last.items() if value is not None}
