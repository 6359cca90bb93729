"""The buffer is bounded, and partitions of incomplete transactions are never paused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rowcast.consumer.reading.backpressure import Backpressure
from rowcast.consumer.reading.partition_stream import PartitionStream, TopicKind

LIMIT = 100


class Streams:
    """Stand in for a subscription of three streams."""

    def __init__(self) -> None:
        self.ahead = stream("ahead", lsn=50)
        self.behind = stream("behind", lsn=5)
        self.transactions = stream("shop.transaction", "transaction", lsn=20)
        self.streams = {s.partition: s for s in (self.ahead, self.behind, self.transactions)}

    def pause(self, stream: PartitionStream) -> None:
        stream.paused = True

    def resume(self, stream: PartitionStream) -> None:
        stream.paused = False

    def paused(self) -> list[str]:
        return [s.partition[0] for s in self.streams.values() if s.paused]


def stream(topic: str, kind: TopicKind = "table", *, lsn: int) -> PartitionStream:
    return PartitionStream((topic, 0), kind, 0, lsn=lsn, transaction=f"of {topic}")


def assembler(events: int = 0, *, ends: int = 0, end_lsn: int | None = None, oldest: str | None = None) -> Any:
    first_end = None if end_lsn is None else SimpleNamespace(lsn=end_lsn)
    return SimpleNamespace(
        pending_events=events, pending_ends=ends, first_end=first_end, oldest_transaction=lambda: oldest
    )


@pytest.fixture
def streams() -> Streams:
    return Streams()


def backpressure(streams: Streams, assembler: Any, held_events: int = 0) -> Backpressure:
    merge: Any = SimpleNamespace(held_events=held_events, is_ahead=lambda stream: bool(stream.held))
    return Backpressure(streams, assembler, merge, LIMIT)  # type: ignore[arg-type]


def test_everything_flows_below_the_limit(streams: Streams) -> None:
    assert backpressure(streams, assembler(40)).may_read(59, None)
    assert streams.paused() == []


def test_reading_waits_while_the_queue_is_full(streams: Streams) -> None:
    assert not backpressure(streams, assembler(60)).may_read(40, None)
    assert not backpressure(streams, assembler(ends=60)).may_read(40, None)
    assert streams.paused() == []


def test_partitions_that_are_ahead_of_the_first_end_are_paused(streams: Streams) -> None:
    assert backpressure(streams, assembler(LIMIT, end_lsn=10)).may_read(0, None)
    assert streams.paused() == ["ahead", "shop.transaction"]


def test_without_an_end_the_partitions_of_later_transactions_are_paused(streams: Streams) -> None:
    assert backpressure(streams, assembler(LIMIT, oldest="of behind")).may_read(0, None)
    assert streams.paused() == ["ahead"]


def test_partitions_stay_paused_until_half_of_the_buffer_is_free(streams: Streams) -> None:
    state = assembler(LIMIT, end_lsn=10)
    pressure = backpressure(streams, state)
    for events, paused in ((LIMIT, ["ahead"]), (LIMIT - 1, ["ahead"]), (LIMIT // 2, ["ahead"]), (LIMIT // 2 - 1, [])):
        state.pending_events = events
        streams.transactions.lsn = 9
        assert pressure.may_read(0, None)
        assert streams.paused() == paused


def test_a_partition_that_the_first_end_needs_again_is_resumed(streams: Streams) -> None:
    state = assembler(LIMIT, end_lsn=10)
    pressure = backpressure(streams, state)
    pressure.may_read(0, None)
    state.first_end = SimpleNamespace(lsn=60)
    pressure.may_read(0, None)
    assert streams.paused() == []


def test_an_excluded_partition_is_neither_paused_nor_resumed(streams: Streams) -> None:
    streams.behind.paused = True
    pressure = backpressure(streams, assembler(LIMIT, end_lsn=10))
    pressure.may_read(0, streams.behind)
    assert streams.behind.paused


def test_by_key_the_partitions_ahead_of_the_watermark_are_paused(streams: Streams) -> None:
    streams.ahead.held = [object()]  # type: ignore[list-item]
    assert backpressure(streams, assembler(), held_events=LIMIT - 1).may_read(LIMIT - 1, None)
    assert streams.paused() == []
    pressure = backpressure(streams, assembler(), held_events=LIMIT)
    # The applier never waits for held events.
    assert pressure.may_read(LIMIT - 1, None)
    assert streams.paused() == ["ahead"]
    assert not pressure.may_read(LIMIT, None)
