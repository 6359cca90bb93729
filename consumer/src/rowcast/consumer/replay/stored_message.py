"""Hold the messages of a transaction. Many messages are held in a temporary file."""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

import msgspec

_IN_MEMORY_BYTES = 32 * 1024 * 1024
_LENGTH_BYTES = 4


class StoredMessage(msgspec.Struct, array_like=True):
    """A message of Kafka's client, apart from the client. The methods are those of the client's message."""

    of_topic: str
    of_partition: int
    at: int
    published_ms: int
    of_key: bytes | None
    content: bytes | None
    with_headers: list[tuple[str, bytes | None]]

    def topic(self) -> str:
        """Return the topic."""
        return self.of_topic

    def partition(self) -> int:
        """Return the partition."""
        return self.of_partition

    def offset(self) -> int:
        """Return the offset."""
        return self.at

    def timestamp(self) -> tuple[int, int]:
        """Return the kind of the time, and the time in milliseconds since 1970."""
        return 1, self.published_ms

    def key(self) -> bytes | None:
        """Return the key."""
        return self.of_key

    def value(self) -> bytes | None:
        """Return the value."""
        return self.content

    def headers(self) -> list[tuple[str, bytes | None]]:
        """Return the headers."""
        return self.with_headers


def stored(message: Any) -> StoredMessage:
    """Return a message of Kafka's client as a stored message."""
    return StoredMessage(
        message.topic(), message.partition(), message.offset(), int(message.timestamp()[1]), message.key(),
        message.value(), list(message.headers() or ()),
    )  # fmt: skip


class StoredMessages:
    """The messages of a transaction, in order."""

    def __init__(self) -> None:
        self._in_memory: list[bytes] = []
        self._bytes = 0
        self._file: BinaryIO | None = None
        self._count = 0

    def add(self, message: Any) -> None:
        """Add a message of Kafka's client."""
        content = msgspec.msgpack.encode(stored(message))
        self._in_memory.append(content)
        self._bytes += len(content)
        self._count += 1
        if self._bytes > _IN_MEMORY_BYTES:
            self._move_to_file()

    def _move_to_file(self) -> None:
        if self._file is None:
            self._file = cast("BinaryIO", TemporaryFile())  # noqa: SIM115  # closed by close
        for content in self._in_memory:
            self._file.write(len(content).to_bytes(_LENGTH_BYTES, "big"))
            self._file.write(content)
        self._in_memory, self._bytes = [], 0

    def __len__(self) -> int:
        """Return the number of messages."""
        return self._count

    def __iter__(self) -> Iterator[StoredMessage]:
        """Yield the messages. Nothing may be added afterwards."""
        if self._file is not None:
            self._move_to_file()
            self._file.seek(0)
            while length := self._file.read(_LENGTH_BYTES):
                yield _decode(self._file.read(int.from_bytes(length, "big")))
        yield from map(_decode, self._in_memory)

    def close(self) -> None:
        """Remove the messages."""
        self._in_memory = []
        if self._file is not None:
            self._file.close()
            self._file = None


_decode = msgspec.msgpack.Decoder(StoredMessage).decode
