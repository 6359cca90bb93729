"""The events of a topic are released by lsn, whichever partition was read first."""

from __future__ import annotations

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Position
from rowcast.consumer.events.row_layout import RowLayout, RowLayouts
from rowcast.consumer.reading.applied_keys import AppliedKeys
from rowcast.consumer.reading.lsn_merge import LsnMerge
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.shared.config.settings import Settings
from support.kafka_source import column, shape

SETTINGS = Settings(source="shop", kafka={"bootstrap.servers": "memory"})
LAYOUT = RowLayout(shape("a", column("n")), ("id", "n"))


class Topic:
    """Hold the partitions of a topic, of which each has ``target`` events."""

    def __init__(self, partitions: int = 2, target: int = 10, *, keeps_apart: bool = False) -> None:
        self.merge = LsnMerge(AppliedKeys(SETTINGS, RowLayouts(), {}, 1_000), keeps_apart=keeps_apart)
        self.streams = [PartitionStream(("a", n), "table", 0, target=target) for n in range(partitions)]

    def read(self, partition: int, *lsns: int) -> None:
        stream = self.streams[partition]
        changes = [
            Change(LAYOUT, b"1", b"{}", lsn, None, 0, stream.partition, stream.next_offset + n)
            for n, lsn in enumerate(lsns)
        ]
        self.merge.add(stream, changes)
        stream.next_offset += len(lsns)
        stream.lsn = lsns[-1]

    def release(self) -> list[int]:
        return [change.lsn for change in self.merge.release(self.streams)[0]]


def test_events_wait_for_smaller_lsns_of_other_partitions() -> None:
    topic = Topic()
    topic.read(1, 5, 7, 9)
    assert topic.release() == []
    topic.read(0, 1, 6, 8)
    assert topic.release() == [1, 5, 6, 7, 8]
    assert (topic.merge.held_events, [c.lsn for c in topic.streams[1].held]) == (1, [9])


def test_partitions_that_are_kept_apart_do_not_wait_for_each_other() -> None:
    topic = Topic(keeps_apart=True)
    topic.read(1, 5, 7)
    assert topic.release() == [5, 7]
    topic.read(0, 1, 6)
    assert topic.release() == [1, 6]
    assert topic.merge.held_events == 0


def test_positions_follow_the_released_events_alone() -> None:
    topic = Topic()
    topic.read(1, 5, 7)
    topic.read(0, 1, 6)
    assert topic.merge.release(topic.streams)[1] == {("a", 0): Position(2, 6), ("a", 1): Position(1, 5)}


def test_a_partition_that_was_read_to_its_target_does_not_hold_the_watermark() -> None:
    topic = Topic(target=2)
    topic.read(1, 50, 70)
    assert topic.release() == []
    topic.streams[0].next_offset = 2
    assert topic.release() == [50, 70]


def test_an_unread_partition_holds_the_watermark_and_an_empty_one_does_not() -> None:
    topic = Topic(partitions=3)
    topic.streams[2].target = 0
    topic.read(0, 1, 2)
    assert topic.release() == []
    topic.read(1, 3)
    assert topic.release() == [1, 2]


def test_a_single_partition_never_waits() -> None:
    topic = Topic(partitions=1)
    topic.read(0, 1, 2)
    assert topic.release() == [1, 2]


def test_topics_do_not_wait_for_each_other() -> None:
    topic = Topic(partitions=1)
    topic.streams.append(PartitionStream(("b", 0), "table", 0, target=10))
    topic.read(0, 1)
    assert topic.release() == [1]


def test_cleared_events_are_never_released() -> None:
    topic = Topic()
    topic.read(1, 5)
    topic.streams[1].lsn = 0
    topic.merge.clear(topic.streams)
    topic.read(0, 1)
    topic.streams[1].next_offset = 10
    assert topic.release() == [1]
    assert topic.merge.held_events == 0


def late(topic: Topic, partition: int, key: bytes, lsn: int) -> None:
    stream = topic.streams[partition]
    change = Change(LAYOUT, key, b"{}", lsn, None, 0, stream.partition, stream.next_offset)
    topic.merge.add(stream, [], late=[change])
    stream.next_offset += 1


def test_an_event_that_was_sent_again_is_dropped_if_another_partition_had_a_newer_one() -> None:
    topic = Topic()
    topic.read(0, 1, 5, 8)
    topic.read(1, 2, 7)
    assert topic.release() == [1, 2, 5, 7]
    late(topic, 1, b"1", 4)
    late(topic, 1, b"2", 6)
    assert topic.release() == [6]


def test_an_event_that_was_sent_again_waits_for_smaller_lsns_of_other_partitions() -> None:
    topic = Topic()
    topic.read(1, 7, 9)
    late(topic, 1, b"2", 6)
    topic.read(0, 1)
    assert topic.release() == [1]
    topic.read(0, 3, 8)
    assert topic.release() == [3, 6, 7, 8]


def test_in_a_single_partition_events_that_were_sent_again_stay_in_their_place() -> None:
    topic = Topic(partitions=1)
    topic.read(0, 5, 7)
    late(topic, 0, b"1", 5)
    late(topic, 0, b"1", 6)
    assert topic.release() == [5, 7, 5, 6]


def test_the_topics_of_a_renamed_table_are_merged_like_one() -> None:
    renamed: dict[str, str] = {}
    topic = Topic(partitions=1)
    topic.merge = LsnMerge(AppliedKeys(SETTINGS, RowLayouts(), {}, 1_000), lambda: renamed)
    topic.streams.append(PartitionStream(("before", 0), "table", 0, target=3))
    topic.read(1, 3)
    # The new name becomes known while events of the former topic are held.
    renamed["before"] = "a"
    topic.read(0, 4, 9)
    assert topic.release() == [3]
    topic.read(1, 6)
    assert topic.release() == [4, 6]
    topic.read(1, 7)
    # The former topic is read to its end.
    assert topic.release() == [7, 9]
    assert topic.merge.held_events == 0
