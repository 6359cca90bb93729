"""Consume topics in memory, for unit tests of the worker's reading."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from confluent_kafka import TopicPartition

from support.memory_topics import MemorySource, Message

Partition = tuple[str, int]


@dataclass(frozen=True)
class ErrorMessage(Message):
    """Report an error by the name of its code."""

    _name: str = "_PARTITION_EOF"

    def error(self) -> Any:
        return SimpleNamespace(name=lambda: self._name, str=lambda: self._name)


def end_of(log: list[Message]) -> int:
    """Return the offset after the last message. Compaction always keeps the last message."""
    return log[-1].offset() + 1 if log else 0


@dataclass
class MemoryBroker:
    """Hold the topics of a source, as Kafka shows topics to consumers.

    ``first_offsets``: the first offset of each partition with a deleted beginning. ``committed``: the end for readers
    of committed data, for partitions where the end differs. ``hidden``: topics to hide, as if not yet created.
    """

    source: MemorySource = field(repr=False)
    first_offsets: dict[Partition, int] = field(default_factory=dict)
    committed: dict[Partition, int] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    consumers: list[MemoryConsumer] = field(default_factory=list)

    def new_consumer(self, _properties: object, _extra: str, own: dict[str, Any]) -> MemoryConsumer:
        """Create a consumer, in place of ``rowcast.shared.kafka.clients.new_consumer``."""
        self.consumers.append(MemoryConsumer(self, own.get("isolation.level") == "read_committed"))
        return self.consumers[-1]


class MemoryConsumer:
    """Implement the methods of ``confluent_kafka.Consumer`` that the worker's reading calls."""

    def __init__(self, broker: MemoryBroker, committed_only: bool) -> None:
        self._broker = broker
        self._committed_only = committed_only
        self._next: dict[Partition, int] = {}
        self._eof: set[Partition] = set()
        self.paused: set[Partition] = set()
        self.closed = False

    def list_topics(self, timeout: float) -> Any:
        topics: dict[str, Any] = {}
        for topic, number in self._broker.source.log:
            if topic not in self._broker.hidden:
                topics.setdefault(topic, SimpleNamespace(partitions={}, error=None)).partitions[number] = None
        return SimpleNamespace(topics=topics)

    def offsets_for_times(self, asked: Iterable[TopicPartition], timeout: float) -> list[TopicPartition]:
        """Return the first offsets for the timestamp -2, and the ends for -1, as Kafka's protocol does."""
        return [TopicPartition(p.topic, p.partition, self._offset_at(p)) for p in asked]

    def _offset_at(self, at: TopicPartition) -> int:
        partition = (at.topic, at.partition)
        if at.offset == -2:
            return self._broker.first_offsets.get(partition, 0)
        assert at.offset == -1
        return end_of(self._broker.source.log[partition])

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._next = {(p.topic, p.partition): p.offset for p in partitions}

    def incremental_assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._next |= {(p.topic, p.partition): p.offset for p in partitions}

    def incremental_unassign(self, partitions: Iterable[TopicPartition]) -> None:
        for p in partitions:
            del self._next[p.topic, p.partition]
            self._eof.discard((p.topic, p.partition))

    def seek(self, at: TopicPartition) -> None:
        self._next[at.topic, at.partition] = at.offset

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self.paused |= {(p.topic, p.partition) for p in partitions}

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self.paused -= {(p.topic, p.partition) for p in partitions}

    def poll(self, timeout: float = 0) -> Message | None:
        return next(iter(self.consume(1, timeout)), None)

    def consume(self, count: int, timeout: float) -> list[Message]:
        messages: list[Message] = []
        for partition in self._next.keys() - self.paused:
            messages += self._read(partition, count - len(messages))
        if not messages and timeout:
            time.sleep(0.01)  # Wait like a broker without new messages, because a busy loop would use up the processor.
        return messages

    def _read(self, partition: Partition, count: int) -> list[Message]:
        log = self._broker.source.log[partition]
        end = self._broker.committed.get(partition, end_of(log)) if self._committed_only else end_of(log)
        at = self._next[partition]
        if count <= 0:
            return []
        if at < self._broker.first_offsets.get(partition, 0):
            return [ErrorMessage(*partition, at, None, None, _name="_AUTO_OFFSET_RESET")]
        messages = [message for message in log if at <= message.offset() < end][:count]
        if messages:
            self._next[partition] = messages[-1].offset() + 1
            self._eof.discard(partition)
        elif partition not in self._eof:
            self._eof.add(partition)
            return [ErrorMessage(*partition, at, None, None)]
        return messages

    def close(self) -> None:
        self.closed = True
