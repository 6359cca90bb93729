"""What a source's topics hold, and what must be true of it for every reader."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import orjson
from confluent_kafka import Consumer, KafkaError, TopicPartition

from servers.settled import wait_until_settled

Isolation = Literal["read_committed", "read_uncommitted"]
Partition = tuple[str, int]

_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Message:
    """An event of a table, or a BEGIN or END. Tombstones and shapes are left out: they have no place in the order."""

    lsn: int
    transaction: str
    table: str | None
    """``schema.table``; None for BEGIN and END."""
    key: bytes
    text: bytes
    """The value. Parsed, those of a long campaign would take gigabytes."""

    @property
    def value(self) -> dict[str, Any]:
        parsed: dict[str, Any] = orjson.loads(self.text)
        return parsed


@dataclass(frozen=True, slots=True)
class Transaction:
    """BEGIN, events, END."""

    begin: Message
    events: Sequence[Message]
    end: Message

    def must_be_as_its_end_says(self) -> None:
        """The events are counted, in all and by table, and numbered as they come."""
        counts: Counter[str] = Counter()
        for event in self.events:
            assert event.table is not None
            counts[event.table] += 1
            told = event.value["transaction"]
            numbers = told["total_order"], told["data_collection_order"]
            assert numbers == (counts.total(), counts[event.table]), f"lsn {event.lsn}: {told}"
        end = self.end.value
        assert end["event_count"] == counts.total(), f"transaction {self.end.transaction}"
        assert {c["data_collection"]: c["event_count"] for c in end["data_collections"]} == counts, end


class Published:
    """The messages of a source, by partition, in the order in which a reader gets them."""

    def __init__(self, bootstrap_servers: str, source: str, isolation: Isolation) -> None:
        self.partitions: dict[Partition, list[Message]] = {}
        self._tombstones: dict[Partition, list[bytes]] = {}
        consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"reader-of-{source}",
                "isolation.level": isolation,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        try:
            topics = consumer.list_topics(timeout=10).topics
            following = {
                (name, number)
                for name, topic in topics.items()
                if name.startswith(f"{source}.") and name != f"{source}.schema"
                for number in topic.partitions
            }
            self.partitions = {partition: [] for partition in following}
            self._tombstones = {partition: [] for partition in following}
            if isolation == "read_committed":
                wait_until_settled(bootstrap_servers, following)
            consumer.assign([TopicPartition(name, number, 0) for name, number in following])
            while following:
                self._take(consumer, following)
        finally:
            consumer.close()

    def _take(self, consumer: Consumer, following: set[Partition]) -> None:
        message = consumer.poll(_PATIENCE_S)
        assert message is not None, f"no answer for {following}"
        topic, number = message.topic(), message.partition()
        assert topic is not None
        assert number is not None
        error = message.error()
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF, error
            following.discard((topic, number))
            return
        value, key = message.value(), message.key() or b""
        if value is None:
            self._tombstones[topic, number].append(key)
            return
        parsed = orjson.loads(value)
        transaction, lsn, table = parsed.get("id"), parsed.get("lsn"), None
        if (source := parsed.get("source")) is not None:
            transaction, lsn = parsed["transaction"]["id"], source["lsn"]
            table = sys.intern(f"{source['schema']}.{source['table']}")
        self.partitions[topic, number].append(Message(lsn, transaction, table, key, value))

    def in_order(self) -> list[Message]:
        """All of them, by lsn."""
        return sorted((m for found in self.partitions.values() for m in found), key=lambda m: m.lsn)

    def as_a_worker_takes_them(self) -> Iterator[tuple[Partition, list[Message]]]:
        """Without those whose lsn is not above what came before in the partition."""
        for partition, found in self.partitions.items():
            taken: list[Message] = []
            for message in found:
                if not taken or message.lsn > taken[-1].lsn:
                    taken.append(message)
            yield partition, taken

    def must_be_each_event_once_in_order(self) -> None:
        """Every lsn once, no lsn missing, each partition in order, each transaction whole and apart from the others."""
        for partition, found in self.partitions.items():
            lsns = [message.lsn for message in found]
            assert lsns == sorted(set(lsns)), f"{partition}: {_first_disorder(lsns)}"
        messages = self.in_order()
        lsns = [message.lsn for message in messages]
        assert lsns == list(range(lsns[0], lsns[0] + len(lsns))), f"a gap, or a lsn twice: {_first_gap(lsns)}"
        for transaction in self.transactions():
            transaction.must_be_as_its_end_says()
        for partition, found in self.partitions.items():
            deleted = [m.key for m in found if m.table is not None and m.value["op"] == "d"]
            assert self._tombstones[partition] == deleted, f"{partition}: a delete without its tombstone"

    def transactions(self) -> Iterator[Transaction]:
        """By lsn. Each must be whole and apart from the others."""
        begin: Message | None = None
        events: list[Message] = []
        for message in self.in_order():
            if message.table is None and message.value["status"] == "BEGIN":
                assert begin is None, f"lsn {message.lsn} begins within {begin}"
                begin, events = message, []
                continue
            assert begin is not None, f"lsn {message.lsn} is in no transaction: {message.value}"
            assert message.transaction == begin.transaction, f"lsn {message.lsn}: {message.value}"
            if message.table is not None:
                events.append(message)
            else:
                yield Transaction(begin, events, message)
                begin = None
        assert begin is None, f"{begin} has no END"


def must_read_the_same(committed: Published, uncommitted: Published) -> None:
    """What a worker takes of what it reads uncommitted is what others get committed, rows and all."""
    worker = dict(uncommitted.as_a_worker_takes_them())
    assert worker.keys() == committed.partitions.keys()
    for partition, found in committed.partitions.items():
        assert [_content(m) for m in worker[partition]] == [_content(m) for m in found], f"{partition}"


def _content(message: Message) -> tuple[int, str, bytes, str | None, Any]:
    return message.lsn, message.transaction, message.key, message.value.get("op"), message.value.get("after")


def _first_disorder(lsns: list[int]) -> str:
    return next((f"{a} before {b}" for a, b in pairwise(lsns) if a >= b), "none")


def _first_gap(lsns: list[int]) -> str:
    return next((f"{a}, then {b}" for a, b in pairwise(lsns) if b != a + 1), "none")
