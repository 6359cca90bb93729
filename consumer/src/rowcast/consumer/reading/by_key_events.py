"""Collect the events that go by key, with the deletes shown only by tombstones."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from itertools import compress, count, repeat
from operator import is_, methodcaller
from typing import Any

from rowcast.consumer.events.change import Change, lsn_of, offset_of
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.tombstone import Tombstone, TombstoneReader
from rowcast.consumer.events.transactions import Transaction
from rowcast.consumer.reading.applied_keys import AppliedKeys
from rowcast.consumer.reading.bad_message import BadMessageError
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.cutover import Cutover
from rowcast.consumer.reading.lsn_merge import LsnMerge
from rowcast.consumer.reading.lsn_rules import LsnRules
from rowcast.consumer.reading.partition_stream import PartitionStream

_value_of = methodcaller("value")


class ByKeyEvents:
    """Merge the events of each topic by lsn, and read tombstones."""

    def __init__(self, context: ReaderContext, cutover: Cutover, rules: LsnRules) -> None:
        self._cutover = cutover
        self._rules = rules
        self._notes = context.layouts.notes
        self._tombstones = TombstoneReader(context.layouts, context.settings.topic_of)
        applied = AppliedKeys(context.settings, context.layouts, context.positions, context.buffer_events)
        keeps_apart = context.share is not None and context.share.follows
        self.merge = LsnMerge(applied, context.renamed_topics, keeps_apart=keeps_apart)
        self.positions: dict[Partition, Position] = {}
        """The positions after records without an event."""

    def pop(self, streams: Collection[PartitionStream]) -> list[Transaction]:
        """Remove and return the events that can be applied now, as one transaction, or nothing."""
        is_alone = self._cutover.by_key
        changes, positions = self.merge.release(streams, is_alone=is_alone) if self.merge.held_events else ([], {})
        positions = self.positions | positions
        self.positions = {}
        if not positions:
            return []
        last = max(changes, key=lsn_of, default=None)
        if last is None:
            return [Transaction(None, 0, 0, positions=positions, by_key=True)]
        return [Transaction(last.transaction, last.lsn, last.ts_ms, changes, positions, by_key=True)]

    def add_tombstones(
        self, stream: PartitionStream, messages: Sequence[Any], changes: list[Change]
    ) -> tuple[list[Tombstone], list[Change]]:
        """Put the tombstones among ``messages`` into the changes of the other messages.

        Return the tombstones, and separately the deletes with an lsn, which are not among the changes. Call this before
        the stream has the lsns of the changes. Raise BadMessageError.
        """
        found: list[Tombstone] = []
        deletes: list[Change] = []
        for place in compress(count(), map(is_, map(_value_of, messages), repeat(None))):
            message, before = messages[place], messages[place - 1] if place else stream.last_message
            at = bisect_left(changes, message.offset(), key=offset_of)
            tombstone = self.read_tombstone(stream, message, before, follows_events=at > 0)
            if isinstance(tombstone, Tombstone):
                changes.insert(at, tombstone)
                found.append(tombstone)
            elif tombstone is not None:
                deletes.append(tombstone)
        return found, deletes

    def read_tombstone(
        self, stream: PartitionStream, message: Any, before: Any, *, follows_events: bool
    ) -> Change | None:
        """Return the delete, or None if the tombstone only repeats its delete event.

        Raise BadMessageError for an impossible lsn. ``before``: the message before in the partition, if known.
        ``follows_events``: events by key were read from the partition before, and are not in the merge yet.
        """
        tombstone = self._tombstones.read(message, before, stream.partition)
        if tombstone is None:
            if follows_events or stream.held:
                stream.repeated_tombstones.add(message.offset())
            elif self._cutover.by_key:
                self.positions[stream.partition] = Position(message.offset() + 1, stream.lsn)
        elif not isinstance(tombstone, Tombstone):
            if tombstone.lsn > self._rules.limit:
                raise BadMessageError(tombstone.offset, self._rules.leap(tombstone.lsn))
            if tombstone.lsn < max(self._notes.first_lsn, stream.first_lsn):
                return None  # The delete belongs to an ended timeline, or to the time before a later snapshot.
        return tombstone
