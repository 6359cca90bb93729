"""Prove that each key of a topic is in the partition that Kafka's partitioner gives the key.

The partitions of such a topic can be read independently: all events of a key are in a single partition, in order. A
topic to which partitions were added while keys had events may have the older and the newer events of a key in two
partitions. So may a topic in which the same key has two texts.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, repeat
from operator import and_, methodcaller, mod
from typing import Any

from rowcast.consumer.events.connect_decoder import WITH_SCHEMA
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.shared.errors import RowcastError

_key_of = methodcaller("key")

# A key with a schema in front, white space, or an escape: the same key may have another text.
_UNUSUAL = (WITH_SCHEMA, b" ", b"\\")

# The constants of murmur2 as Kafka uses it.
_SEED, _FACTOR, _SHIFT = 0x9747B28C, 0x5BD1E995, 24
_LANE_BYTES = 8


class ScatteredKeysError(RowcastError):
    """Report a topic that must be read as a whole, because of a key in another partition, or of a truncate."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"topic {topic} has a key in another partition or form than the relay chooses now, or a truncate"
        )
        self.topic = topic

    def __reduce__(self) -> tuple[type[ScatteredKeysError], tuple[str]]:
        """Let another process rebuild the error from its arguments."""
        return type(self), (self.topic,)


class KeyPartitions:
    """Check every message of some topics. ``counts``: the number of partitions of each topic to check."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts

    def require(self, stream: PartitionStream, messages: Sequence[Any]) -> None:
        """Raise ScatteredKeysError unless every key belongs to the stream's partition."""
        topic, number = stream.partition
        if (count := self._counts.get(topic)) is None:
            return
        keys = list(map(_key_of, messages))
        if None in keys or not _are_usual(b"".join(keys)) or partitions_of_keys(keys, count) - {number}:
            raise ScatteredKeysError(topic)


def _are_usual(joined: bytes) -> bool:
    """Return whether keys one after another have the only form of integers, dates and UUIDs: without a schema."""
    return joined.isascii() and not any(unusual in joined for unusual in _UNUSUAL)


def partitions_of_keys(keys: Iterable[bytes], count: int) -> set[int]:
    """Return the partitions that the relay's partitioner gives these keys, of ``count`` partitions."""
    found: set[int] = set()
    for _, group in groupby(sorted(keys, key=len), len):
        hashes = map(and_, _murmur2(list(group)), repeat(0x7FFFFFFF))
        found.update(map(mod, hashes, repeat(count)))
    return found


def _murmur2(keys: Sequence[bytes]) -> array[int]:
    """Return the murmur2 hash of each key. All keys have the same length.

    An integer of Python holds a lane of 64 bits for each key, with a value of 32 bits. Therefore an operation on the
    integer is an operation on all keys. The product of two values fits into a lane.
    """
    length, lanes = len(keys[0]), _Lanes(len(keys), b"".join(keys))
    hashes = lanes.repeat(_SEED ^ length)
    whole = length - length % 4
    for place in range(0, whole, 4):
        word = lanes.word(place, 4) * _FACTOR & lanes.mask
        word ^= word >> _SHIFT & lanes.mask
        hashes = (hashes * _FACTOR & lanes.mask) ^ (word * _FACTOR & lanes.mask)
    if whole < length:
        hashes = (hashes ^ lanes.word(whole, length - whole)) * _FACTOR & lanes.mask
    hashes ^= hashes >> 13 & lanes.mask
    hashes = hashes * _FACTOR & lanes.mask
    hashes ^= hashes >> 15 & lanes.mask
    return array("Q", hashes.to_bytes(len(keys) * _LANE_BYTES, sys.byteorder))


class _Lanes:
    """Take words of many keys of the same length into one integer. ``joined``: the keys one after another."""

    def __init__(self, count: int, joined: bytes) -> None:
        self._count = count
        self._joined = joined
        self._length = len(joined) // count
        self._ones = int.from_bytes(b"\1".ljust(_LANE_BYTES, b"\0") * count, "little")
        self.mask = self.repeat(0xFFFFFFFF)

    def repeat(self, value: int) -> int:
        """Return an integer with the value in each lane."""
        return value * self._ones

    def word(self, place: int, size: int) -> int:
        """Return the little-endian words of ``size`` bytes at a place of the keys."""
        lanes = bytearray(self._count * _LANE_BYTES)
        for number in range(size):
            lanes[number::_LANE_BYTES] = self._joined[place + number :: self._length]
        return int.from_bytes(lanes, "little")
