"""Every key of a divided topic is in the partition that the partitioner chooses, or the topic is not divided."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.key_partitions import KeyPartitions, ScatteredKeysError, partitions_of_keys
from rowcast.consumer.reading.message_router import MessageRouter
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.share import Share
from rowcast.shared.config.settings import Settings
from support.kafka_source import column, shape
from support.memory_topics import MemorySource

TOPIC = "shop.public.a"
A = shape("a", column("n"))


def murmur2(data: bytes) -> int:
    """Compute murmur2 with Kafka's seed, after the published description of the algorithm."""
    factor, mask = 0x5BD1E995, 0xFFFFFFFF
    value = 0x9747B28C ^ len(data)
    for place in range(0, len(data) - len(data) % 4, 4):
        word = int.from_bytes(data[place : place + 4], "little") * factor & mask
        word = (word ^ word >> 24) * factor & mask
        value = (value * factor & mask) ^ word
    if rest := data[len(data) - len(data) % 4 :]:
        value = (value ^ int.from_bytes(rest, "little")) * factor & mask
    value = (value ^ value >> 13) * factor & mask
    return value ^ value >> 15


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(1, 2**31 - 1))
def test_keys_go_where_kafkas_partitioner_sends_them(keys: list[bytes], count: int) -> None:
    assert partitions_of_keys(keys, count) == {(murmur2(key) & 0x7FFFFFFF) % count for key in keys}


def _source(counts: Sequence[int]) -> MemorySource:
    """Publish each row once for each number of partitions, one number after another."""
    source = MemorySource("shop", max(counts))
    source.add(A)
    for n, count in enumerate(counts):
        for id in range(20):
            key = b'{"id":%d}' % id
            source.lsn += 1
            value = source.envelope("u", A, {"id": id, "n": n}, source.lsn, f"{n}", 1, 1)
            source.send(TOPIC, value, key, murmur2(key) % 2**31 % count)
    return source


def _loaded(source: MemorySource, divided: dict[str, int], order: Sequence[int]) -> dict[int, int]:
    """Read each partition by a router of its own, one after another. Return the rows."""
    rows: dict[int, int] = {}
    layouts = RowLayouts()
    layouts.add(A.version, A, 0)
    settings = Settings(source="shop", kafka={"bootstrap.servers": "memory"})
    for number in order:
        share = Share(frozenset({(TOPIC, number)}), divided)
        router = MessageRouter(ReaderContext(settings, layouts, loading=True, share=share))
        messages = source.log[TOPIC, number]
        stream = PartitionStream((TOPIC, number), "table", 0, target=len(messages))
        if messages:
            router.take(stream, messages)
        for transaction in router.pop_ready([stream]):
            for change in transaction.changes:
                if change.is_truncate:
                    rows.clear()
                    continue
                rows[int(change.key.decode().strip('{}"id:'))] = change.lsn
    return rows


def test_partitions_are_read_in_any_order_if_every_key_is_in_its_partition() -> None:
    source, order = _source([3, 3]), [0, 1, 2]
    newest = {id: 22 + id for id in range(20)}
    random.Random(1).shuffle(order)
    assert _loaded(source, {TOPIC: 3}, order) == newest


@pytest.mark.parametrize("counts", [[1, 3], [2, 3], [3, 2]])
def test_a_topic_with_keys_in_two_partitions_is_not_divided(counts: list[int]) -> None:
    source, newest = _source(counts), {id: 22 + id for id in range(20)}
    orders = ([0, 1, 2], [2, 1, 0])
    # Without the check, a process overwrites newer rows.
    assert any(_loaded(source, {}, order) != newest for order in orders)
    for order in orders:
        with pytest.raises(ScatteredKeysError, match=TOPIC):
            _loaded(source, {TOPIC: 3}, order)


@pytest.mark.parametrize("key", [None, b'{"id": 1}', b'{"schema":{},"payload":{"id":1}}', b'{"\\u0069d":1}'])
def test_a_key_in_another_form_may_be_in_another_partition_too(key: bytes | None) -> None:
    source = MemorySource("shop", 1)
    source.send(TOPIC, b"{}", key, 0)
    checked, unchecked = KeyPartitions({TOPIC: 1}), KeyPartitions({})
    stream = PartitionStream((TOPIC, 0), "table", 0)
    unchecked.require(stream, source.log[TOPIC, 0])
    with pytest.raises(ScatteredKeysError):
        checked.require(stream, source.log[TOPIC, 0])


def test_a_topic_with_a_truncate_is_not_divided() -> None:
    source = _source([1])
    source.lsn += 1
    value = source.envelope("d", A, {"id": 1}, source.lsn, "1", 1, 1).replace(b'"op":"d"', b'"op":"t"')
    source.send(TOPIC, value, b'{"id":1}', 0)
    assert _loaded(source, {}, [0]) == {}
    with pytest.raises(ScatteredKeysError, match="truncate"):
        _loaded(source, {TOPIC: 1}, [0])


def test_the_error_crosses_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(ScatteredKeysError(TOPIC)))
    assert error.topic == TOPIC
    assert TOPIC in str(error)
