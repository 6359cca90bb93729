"""Events are lost when every partition has passed the END, or has been at its end for the time of grace."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rowcast.consumer.events.position import Partition
from rowcast.consumer.reading import gap_detector
from rowcast.consumer.reading.gap_detector import GRACE_S, GapDetector
from rowcast.consumer.reading.partition_stream import PartitionStream

TABLE = "public.orders"


class World:
    """Hold a pending END that lacks two events, two partitions of their table, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.known = [PartitionStream(("orders", n), "table", 0, lsn=5) for n in range(2)]
        self.added: list[PartitionStream] = []
        self.discoveries = 0
        self.first_end: Any = SimpleNamespace(id="7", lsn=10)
        self.detector = GapDetector(self, self)  # type: ignore[arg-type]

    @property
    def streams(self) -> dict[Partition, PartitionStream]:
        return {stream.partition: stream for stream in self.known}

    def streams_of_table(self, full_name: str) -> list[PartitionStream]:
        assert full_name == TABLE
        return self.known

    def discover(self, *, at_once: bool) -> None:
        assert at_once
        self.discoveries += 1
        self.known += self.added
        self.added = []

    def missing_counts(self) -> dict[str, int]:
        return {TABLE: 2}

    def find_gap_after(self, seconds: float) -> str | None:
        self.now += seconds
        return self.detector.find_gap()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(gap_detector, "time", SimpleNamespace(monotonic=lambda: world.now))
    assert world.detector.find_gap() is None
    return world


def test_no_gap_without_a_pending_end(world: World) -> None:
    world.first_end = None
    assert world.find_gap_after(GRACE_S * 2) is None


def test_events_are_lost_when_all_partitions_have_passed_the_end(world: World) -> None:
    world.known[0].lsn = 11
    assert world.find_gap_after(1) is None
    world.known[1].lsn = 12
    assert (
        world.find_gap_after(1)
        == "transaction 7 lacks 2 events of table public.orders, which its topic no longer holds"
    )


def test_events_are_lost_when_all_partitions_are_at_their_ends_for_the_time_of_grace(world: World) -> None:
    world.known[0].at_end = world.known[1].at_end = True
    assert world.find_gap_after(GRACE_S - 1) is None
    assert world.find_gap_after(2) is not None


def test_a_partition_that_still_has_records_may_hold_the_events(world: World) -> None:
    world.known[0].at_end = True
    assert world.find_gap_after(GRACE_S * 2) is None


def test_a_table_without_a_topic_is_a_gap_after_the_time_of_grace(world: World) -> None:
    world.known = []
    assert world.find_gap_after(GRACE_S - 1) is None
    assert world.find_gap_after(2) is not None


def test_the_time_of_grace_begins_again_with_another_end(world: World) -> None:
    world.known[0].at_end = world.known[1].at_end = True
    assert world.find_gap_after(GRACE_S - 1) is None
    world.first_end = SimpleNamespace(id="8", lsn=20)
    assert world.find_gap_after(2) is None
    assert world.find_gap_after(GRACE_S + 1) is not None


def test_new_partitions_are_looked_for_before_a_gap_is_declared(world: World) -> None:
    for stream in world.known:
        stream.lsn = 11
    added = PartitionStream(("orders", 2), "table", 0)
    world.added = [added]
    assert world.find_gap_after(1) is None
    assert world.discoveries == 1
    added.at_end = True
    # The time of grace begins again with the new partition.
    assert world.find_gap_after(GRACE_S - 1) is None
    assert world.find_gap_after(2) is not None


def test_partitions_at_their_ends_are_reason_to_look_for_new_ones_at_once(world: World) -> None:
    assert world.find_gap_after(1) is None
    assert world.discoveries == 0
    world.known[0].at_end = world.known[1].at_end = True
    for _ in range(4):
        assert world.find_gap_after(0.25) is None
    assert world.discoveries == 1
