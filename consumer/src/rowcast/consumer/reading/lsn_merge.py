"""Merge the partitions of a table by lsn, for events that go by key.

A key's events are in a single partition only as long as the number of partitions stays. After partitions were added,
the older events of a key may be in another partition than the newer events. The lsn is the order of all events of the
key. The topics of a renamed table, under its former names and the present one, are merged like one topic.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain

from rowcast.consumer.events.change import Change, lsn_of, offset_of
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.tombstone import OPEN_LSN, Tombstone
from rowcast.consumer.reading.applied_keys import AppliedKeys
from rowcast.consumer.reading.partition_stream import PartitionStream

_NOT_RENAMED: Mapping[str, str] = {}


class LsnMerge:
    """Hold early events, and release the events of each topic in the order of lsns.

    The *watermark* of a topic is the smallest lsn up to which every partition has been read. Events up to the watermark
    are released. A partition that has reached its target does not hold the watermark, because every event from before
    the start of the load has been read. Topics do not wait for each other, because a key belongs to one table.

    A late event has a smaller lsn than an earlier event of the partition, because the relay repeated the event. A late
    event is released in the order of lsns too, and dropped if a newer event of the key was released.

    A tombstone that has neither an lsn nor its delete event waits for the next event of the partition, and is released
    just before this event. Until then, another partition may release an event of the key. If the event is younger than
    the tombstone, the row was created again, and the tombstone is dropped.

    ``renamed``: returns the topic of a renamed table by each former topic. Below, a topic includes its former topics.
    ``keeps_apart``: each key is known to be in a single partition, so that no partition waits for another.
    """

    def __init__(
        self, applied: AppliedKeys, renamed: Callable[[], Mapping[str, str]] = dict, *, keeps_apart: bool = False
    ) -> None:
        self._applied = applied
        self._renamed = renamed
        self._keeps_apart = keeps_apart
        self._waiting: dict[str, None] = {}
        self._tombstones: dict[str, dict[bytes, Tombstone]] = {}
        self.held_events = 0
        """The number of events held."""

    def add(
        self,
        stream: PartitionStream,
        changes: list[Change],
        tombstones: Iterable[Tombstone] = (),
        late: Sequence[Change] = (),
    ) -> None:
        """Add the next events of a partition. The lsns must grow.

        ``tombstones``: the tombstones without an lsn among the events. ``late``: the other next events, of any lsn.
        """
        topic = self._topic_of(stream)
        self.held_events += len(changes) + len(late)
        stream.late += late
        self._waiting[topic] = None
        if tombstones:
            pending = self._tombstones.setdefault(topic, {})
            for tombstone in tombstones:
                pending[tombstone.key] = tombstone
        if tombstones or (stream.held and stream.held[-1].lsn == OPEN_LSN):
            _place_tombstones(stream, changes)
        else:
            stream.held += changes

    def _topic_of(self, stream: PartitionStream, renamed: Mapping[str, str] = _NOT_RENAMED) -> str:
        topic, number = stream.partition
        # A partition that is kept apart is like a topic with a single partition.
        return f"{topic}:{number}" if self._keeps_apart else renamed.get(topic, topic)

    def is_ahead(self, stream: PartitionStream) -> bool:
        """Return whether the stream holds events, and the watermark does not wait for the stream.

        A stream at the watermark can hold nothing but tombstones that wait for the next event.
        """
        if not stream.held:
            return bool(stream.late) and all(change.lsn <= stream.lsn for change in stream.late)
        return stream.held[0].lsn != OPEN_LSN or stream.target_reached

    def release(
        self, streams: Collection[PartitionStream], *, is_alone: bool = True
    ) -> tuple[list[Change], dict[Partition, Position]]:
        """Remove and return the events up to each topic's watermark, and the positions after the returned events.

        ``streams``: all streams of the reader. ``is_alone``: the merge gets all events of the partitions. A position is
        then also after the records without an event that follow the last returned event.
        """
        changes: list[Change] = []
        positions: dict[Partition, Position] = {}
        renamed = {} if self._keeps_apart else self._renamed()
        self._join(renamed)
        for topic in list(self._waiting):
            of_topic = [stream for stream in streams if self._topic_of(stream, renamed) == topic]
            # A single partition is in order by itself.
            watermark = min(map(_bound, of_topic)) if len(of_topic) > 1 else math.inf
            released = []
            for stream in of_topic:
                run = _take_run(stream, watermark)
                late = _take_late(stream, watermark, run) if stream.late else []
                if run or late:
                    released += [run, late] if late else [run]
                    self.held_events -= len(run) + len(late)
                    positions[stream.partition] = _position_after(stream, run, late, is_alone=is_alone)
            merged = released.pop() if len(released) == 1 else list(chain.from_iterable(released))
            changes += self._in_order(topic, merged, of_topic, is_sorted=not released)
            if not any(stream.held or stream.late for stream in of_topic):
                del self._waiting[topic]
                self._tombstones.pop(topic, None)
        return changes, positions

    def _join(self, renamed: Mapping[str, str]) -> None:
        """Let what waits under former topics wait under the present topic."""
        for former, topic in renamed.items():
            if former in self._waiting:
                del self._waiting[former]
                self._waiting[topic] = None
            if former in self._tombstones:
                self._tombstones.setdefault(topic, {}).update(self._tombstones.pop(former))

    def _in_order(
        self, topic: str, changes: list[Change], streams: Sequence[PartitionStream], *, is_sorted: bool
    ) -> list[Change]:
        """Return the released events of a topic in the order to apply."""
        if not changes:
            return changes
        if len(streams) == 1:
            # The last event of a key is the newest, wherever events were sent again.
            if not is_sorted:
                changes.sort(key=offset_of)
            self._applied.skip(topic, streams[0].lsn)
        else:
            if not is_sorted:
                # Sorting a few sorted runs is a merge.
                changes.sort(key=lsn_of)
            if changes[0].lsn <= self._applied.released_lsn(topic):
                changes = self._without_outdated(topic, changes, streams)
            if changes:
                self._applied.note(topic, changes)
        pending = self._tombstones.get(topic)
        if pending is not None:
            changes = _settle_tombstones(changes, pending, {s.partition: s.lsn for s in streams})
        return changes

    def _without_outdated(
        self, topic: str, changes: list[Change], streams: Sequence[PartitionStream]
    ) -> list[Change]:  # fmt: skip
        end = bisect_right(changes, self._applied.released_lsn(topic), key=lsn_of)
        return [c for c in changes[:end] if not self._applied.is_outdated(topic, c, streams)] + changes[end:]

    def clear(self, streams: Collection[PartitionStream]) -> None:
        """Drop all held events, because the partitions will be read again from the streams' present positions."""
        for stream in streams:
            stream.held, stream.late = [], []
        self._applied.start_at([(stream.partition, stream.position) for stream in streams])
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

    ``pending``: the held tombstones by key. ``lsns``: the lsns of the partitions, for the last tombstones.
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


def _position_after(
    stream: PartitionStream, run: Sequence[Change], late: Sequence[Change], *, is_alone: bool
) -> Position:
    """Return the position after released events and their tombstones.

    A worker that starts again would take a repeated tombstone without an lsn for a new delete.
    """
    if is_alone and not (stream.held or stream.late):
        return stream.position
    # Late events behind held events are read again after a restart, and are outdated then.
    last = max(run[-1:] if stream.held else [*run[-1:], *late[-1:]], key=offset_of)
    offset = last.offset + 1
    if offset in stream.repeated_tombstones:
        offset += 1
    if stream.late:
        offset = min(offset, stream.late[0].offset)
    stream.repeated_tombstones = {later for later in stream.repeated_tombstones if later >= offset}
    return Position(offset, min((run or [last])[-1].lsn, stream.lsn))


def _take_late(stream: PartitionStream, watermark: float, run: Sequence[Change]) -> list[Change]:
    """Remove and return the late events, in the order of offsets, or nothing if the events must wait.

    Late events wait until all are up to the watermark, and until the stream has a new position.
    """
    if any(change.lsn > watermark for change in stream.late) or (stream.held and not run):
        return []
    late, stream.late = stream.late, []
    return late


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
