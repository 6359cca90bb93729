"""Merge the partitions of a topic by lsn, for events that go by key.

A key's events are in one partition only as long as the topic keeps its number of partitions. After partitions were
added, the older events of a key may be in another partition than its newer events. The lsn is the order of all of them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from itertools import chain

from rowcast.consumer.events.change import Change, lsn_of
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.tombstone import OPEN_LSN, Tombstone
from rowcast.consumer.reading.partition_stream import PartitionStream


class LsnMerge:
    """Hold events that come early, and release the events of each topic in the order of their lsns.

    The *watermark* of a topic is the smallest lsn up to which every partition has been read. Events up to the watermark
    are released. A partition that has reached its target does not hold the watermark, because every event that was
    there at the start of the load has been read. Topics do not wait for each other, because a key belongs to one table.

    A tombstone without its delete event has no lsn. It waits for the next event of its partition, and is released just
    before this event. Until then, another partition may release an event of the key. If the event is younger than the
    tombstone, the row was created again, and the tombstone is dropped.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, None] = {}
        self._tombstones: dict[str, dict[bytes, Tombstone]] = {}
        self.held_events = 0
        """The number of events held."""

    def add(self, stream: PartitionStream, changes: list[Change], tombstones: Iterable[Tombstone] = ()) -> None:
        """Add the next events of a partition. Their lsns must grow. ``tombstones``: the tombstones among the events."""
        topic = stream.partition[0]
        self.held_events += len(changes)
        self._waiting[topic] = None
        if tombstones:
            pending = self._tombstones.setdefault(topic, {})
            for tombstone in tombstones:
                pending[tombstone.key] = tombstone
        if tombstones or (stream.held and stream.held[-1].lsn == OPEN_LSN):
            _place_tombstones(stream, changes)
        else:
            stream.held += changes

    def is_ahead(self, stream: PartitionStream) -> bool:
        """Return whether the stream holds events, and the watermark does not wait for the stream.

        A stream at the watermark can hold nothing but tombstones that wait for its next event.
        """
        return bool(stream.held) and (stream.held[0].lsn != OPEN_LSN or stream.target_reached)

    def release(
        self, streams: Collection[PartitionStream], *, is_alone: bool = True
    ) -> tuple[list[Change], dict[Partition, Position]]:
        """Remove and return the events up to each topic's watermark, and the positions after the returned events.

        ``streams``: all streams of the reader. ``is_alone``: the merge gets all events of the partitions. A position is
        then also after the records without an event that follow the last returned event.
        """
        changes: list[Change] = []
        positions: dict[Partition, Position] = {}
        for topic in list(self._waiting):
            of_topic = [stream for stream in streams if stream.partition[0] == topic]
            # A single partition is in order by itself.
            watermark = min(map(_bound, of_topic)) if len(of_topic) > 1 else math.inf
            released = []
            for stream in of_topic:
                if run := _take_run(stream, watermark):
                    released.append(run)
                    is_at_read = is_alone and not stream.held
                    positions[stream.partition] = stream.position if is_at_read else _position_after(stream, run[-1])
                    self.held_events -= len(run)
            merged = released.pop() if len(released) == 1 else list(chain.from_iterable(released))
            if released:
                # Sorting a few sorted runs is a merge.
                merged.sort(key=lsn_of)
            pending = self._tombstones.get(topic)
            if pending is not None:
                merged = _settle_tombstones(merged, pending, {s.partition: s.lsn for s in of_topic})
            changes += merged
            if not any(stream.held for stream in of_topic):
                del self._waiting[topic]
                self._tombstones.pop(topic, None)
        return changes, positions

    def clear(self, streams: Collection[PartitionStream]) -> None:
        """Drop all held events, because the partitions will be read again."""
        for stream in streams:
            stream.held = []
        self._waiting.clear()
        self._tombstones.clear()
        self.held_events = 0


def _bound(stream: PartitionStream) -> float:
    """Return the lsn below which no event of the partition is still to be read."""
    return math.inf if stream.target_reached else stream.lsn


def _place_tombstones(stream: PartitionStream, changes: list[Change]) -> None:
    """Hold the changes, and give each tombstone the lsn of the next event of its partition."""
    start = len(stream.held)
    while start and stream.held[start - 1].lsn == OPEN_LSN:
        start -= 1
    placed = stream.held[start:] + changes
    next_lsn = OPEN_LSN
    for index in reversed(range(len(placed))):
        change = placed[index]
        if isinstance(change, Tombstone):
            placed[index] = change._replace(lsn=next_lsn)
        else:
            next_lsn = change.lsn
    stream.held[start:] = placed


def _settle_tombstones(
    merged: list[Change], pending: dict[bytes, Tombstone], lsns: Mapping[Partition, int]
) -> list[Change]:
    """Return the changes without the tombstones of rows that were created again.

    ``pending``: the held tombstones by key. ``lsns``: the lsns of the partitions, for the tombstones at their ends.
    """
    settled = []
    for change in merged:
        tombstone = pending.get(change.key)
        if isinstance(change, Tombstone):
            if tombstone is None or (tombstone.partition, tombstone.offset) != (change.partition, change.offset):
                continue
            del pending[change.key]
            if change.lsn == OPEN_LSN:
                change = change._replace(lsn=lsns[change.partition])
        elif tombstone and tombstone.partition != change.partition and tombstone.ts_ms < change.ts_ms:
            del pending[change.key]
        settled.append(change)
    return settled


def _position_after(stream: PartitionStream, change: Change) -> Position:
    """Return the position after a change, and after the tombstone that repeats it.

    A worker that starts again would take the tombstone for a delete of its own, with the lsn of the next event.
    """
    offset = change.offset + 1
    if offset in stream.repeated_tombstones:
        offset += 1
    stream.repeated_tombstones = {later for later in stream.repeated_tombstones if later >= offset}
    return Position(offset, min(change.lsn, stream.lsn))


def _take_run(stream: PartitionStream, watermark: float) -> list[Change]:
    """Remove and return the held events of a stream up to the watermark."""
    held = stream.held
    if not held or held[0].lsn > watermark:
        return []
    if held[-1].lsn <= watermark:
        stream.held = []
        return held
    end = bisect_right(held, watermark, key=lsn_of)
    stream.held = held[end:]
    return held[:end]
