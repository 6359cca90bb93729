"""Read the topics of a source, and check the promises of rowcast to every reader."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import orjson
from confluent_kafka import Consumer, KafkaError, TopicPartition

from servers.wait_until_settled import wait_until_settled

Isolation = Literal["read_committed", "read_uncommitted"]
Partition = tuple[str, int]

_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Message:
    """Hold an event of a table, or a BEGIN or END.

    Tombstones and shapes are left out, because they have no place in the order of lsns.
    """

    lsn: int
    transaction: str
    table: str | None
    """``schema.table``, or None for BEGIN and END."""
    key: bytes
    text: bytes
    """The value as bytes, because the parsed values of a long campaign would take gigabytes."""

    @property
    def value(self) -> dict[str, Any]:
        parsed: dict[str, Any] = orjson.loads(self.text)
        return parsed


@dataclass(frozen=True, slots=True)
class Transaction:
    """Hold BEGIN, events and END of a transaction."""

    begin: Message
    events: Sequence[Message]
    end: Message

    def must_be_as_its_end_says(self) -> None:
        """Check the counts of END, in total and by table, and the numbers of the events."""
        counts: Counter[str] = Counter()
        for event in self.events:
            assert event.table is not None
            counts[event.table] += 1
            block = event.value["transaction"]
            numbers = block["total_order"], block["data_collection_order"]
            assert numbers == (counts.total(), counts[event.table]), f"lsn {event.lsn}: {block}"
        end = self.end.value
        assert end["event_count"] == counts.total(), f"transaction {self.end.transaction}"
        assert {c["data_collection"]: c["event_count"] for c in end["data_collections"]} == counts, end


class Published:
    """Hold the messages of a source, by partition, in a reader's order."""

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
                # At the end of a partition the broker answers after this time. The default is 500 ms.
                "fetch.wait.max.ms": 10,
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
        """Return all messages, by lsn."""
        return sorted((m for found in self.partitions.values() for m in found), key=lambda m: m.lsn)

    def as_a_worker_takes_them(self) -> Iterator[tuple[Partition, list[Message]]]:
        """Yield each partition with the messages taken by a worker: without messages at or below the highest lsn so
        far.
        """
        for partition, found in self.partitions.items():
            taken: list[Message] = []
            for message in found:
                if not taken or message.lsn > taken[-1].lsn:
                    taken.append(message)
            yield partition, taken

    def must_be_each_event_once_in_order(self) -> None:
        """Check that every lsn comes once and in order, without a gap, and that transactions are whole and apart from
        each other.
        """
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
        """Yield the transactions by lsn. Raises AssertionError if a transaction is not whole or overlaps another."""
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
    """Check that a worker takes exactly the messages of a reader of committed data, rows included."""
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
