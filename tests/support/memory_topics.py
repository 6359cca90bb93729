"""Keep topics in memory, written like the relay writes topics in Kafka."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rowcast.shared.kafka.topic_names import transaction_topic
from support.kafka_source import Source


@dataclass(frozen=True)
class Message:
    """Implement the methods of a message of confluent-kafka."""

    _topic: str
    _partition: int
    _offset: int
    _key: bytes | None
    _value: bytes | None
    _timestamp: int = 0
    _headers: list[tuple[str, bytes]] | None = None

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def timestamp(self) -> tuple[int, int]:
        return 1, self._timestamp

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self._headers

    def error(self) -> None:
        return None


class MemorySource(Source):
    """Keep the messages of every partition in order."""

    def __init__(self, name: str = "shop", partitions: int = 1, *, tombstone_lsns: bool = True) -> None:
        super().__init__("", name, partitions, tombstone_lsns)

    def __post_init__(self) -> None:
        self.log: dict[tuple[str, int], list[Message]] = {(transaction_topic(self.name), 0): []}

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None = None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> None:
        number = zlib.crc32(key or b"") % self.partitions if partition is None else partition
        log = self.log.setdefault((topic, number), [])
        offset = log[-1].offset() + 1 if log else 0
        log.append(Message(topic, number, offset, key, value, int(time.time() * 1000), headers))

    def create_topics(self, partitions: Mapping[str, int]) -> None:
        for topic, count in partitions.items():
            for number in range(count):
                self.log.setdefault((topic, number), [])

    def flush(self) -> None:
        pass


def compact(log: list[Message], end: int) -> list[Message]:
    """Return the messages as compaction of the offsets before ``end`` leaves them: the last of each key."""
    last = {message.key(): message.offset() for message in log if message.offset() < end}
    return [m for m in log if m.offset() >= end or last[m.key()] == m.offset()]


def stream_messages(source: MemorySource, partition: tuple[str, int], start: int, stop: int) -> list[Any]:
    """Return the messages from offset ``start`` up to ``stop``, without ``stop``."""
    return source.log[partition][start:stop]
