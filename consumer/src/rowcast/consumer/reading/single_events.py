"""Take the messages of a table topic singly, with a closer look at each lsn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rowcast.consumer.events.change import Change, UnknownShapeError, read_change
from rowcast.consumer.events.tombstone import Tombstone
from rowcast.consumer.reading.bad_message import BadMessageError
from rowcast.consumer.reading.by_key_events import ByKeyEvents
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.cutover import Cutover
from rowcast.consumer.reading.key_partitions import ScatteredKeysError
from rowcast.consumer.reading.lsn_rules import LsnRules, event_mark
from rowcast.consumer.reading.new_shapes import NewShapes
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.topic_history import TopicHistory
from rowcast.consumer.reading.transaction_assembler import TransactionAssembler
from rowcast.shared.errors import DataError


class SingleEvents:
    """Read events singly, and accept, skip or refuse each. The parameters are shared with ``TableEvents``."""

    def __init__(
        self,
        context: ReaderContext,
        cutover: Cutover,
        history: TopicHistory,
        rules: LsnRules,
        shapes: NewShapes,
    ) -> None:
        self._layouts = context.layouts
        self._skipped = context.skips.transactions
        self._ignores_truncates = context.ignores_truncates
        self._divided = () if context.share is None else context.share.divided
        self._cutover = cutover
        self._history = history
        self._rules = rules
        self._shapes = shapes

    def take(
        self, stream: PartitionStream, messages: Sequence[Any], assembler: TransactionAssembler, by_key: ByKeyEvents
    ) -> None:
        """Take the messages. Raise BadMessageError after the messages before a bad message."""
        taken = _TakenEvents(stream, assembler, by_key)
        try:
            for place, message in enumerate(messages):
                if message.value() is None:
                    before = messages[place - 1] if place else stream.last_message
                    # By transaction, a tombstone serves compaction alone: END counts the delete before the tombstone.
                    if self._cutover.applies_repetitions(stream.lsn):
                        taken.add_tombstone(message, before)
                elif (change := self._read(message, stream)) is not None:
                    self._take(change, taken)
        finally:
            if taken.first is not None and taken.last is not None:
                self._history.note(stream, taken.first, taken.last)
                self._rules.note(taken.last.lsn)
            taken.finish()

    def _read(self, message: Any, stream: PartitionStream) -> Change | None:
        """Read an event. Return None if the table is not wanted."""
        try:
            try:
                return read_change(message.key(), message.value(), stream.partition, message.offset(), self._layouts)
            except UnknownShapeError:
                return self._shapes.read_event(message, stream.partition)
        except DataError as error:
            raise BadMessageError(message.offset(), error, is_unreadable=True) from error

    def _take(self, change: Change, taken: _TakenEvents) -> None:
        stream, lsn = taken.stream, change.lsn
        if lsn < self._history.first_lsn(stream):
            return
        if lsn <= stream.lsn:
            self._take_smaller(change, taken)
            return
        if lsn > self._rules.limit:
            raise BadMessageError(change.offset, self._rules.leap(lsn))
        if lsn <= self._history.lsn_elsewhere(stream) and self._was_sent_elsewhere(change, stream):
            return
        taken.note(change)
        if not self._cutover.by_key:
            stream.memory.add((lsn,), (event_mark(change),))
        if change.is_truncate and stream.partition[0] in self._divided and not self._ignores_truncates:
            # Other processes read rows that the truncate deletes.
            raise ScatteredKeysError(stream.partition[0])
        if change.is_truncate and self._ignores_truncates:
            if not self._cutover.includes(lsn, change.transaction):
                taken.assembler.leave_out(change)
        elif not self._cutover.includes(lsn, change.transaction):
            taken.assembler.add(change)
        elif change.transaction not in self._skipped:
            taken.changes.append(change)

    def _take_smaller(self, change: Change, taken: _TakenEvents) -> None:
        """Take an event whose lsn is not above the lsns before.

        Usually the event was sent twice, because lsns only grow. By key, the event is applied again if no newer event
        of the key was, because compaction may have removed the first copy.
        """
        stream = taken.stream
        if self._cutover.applies_repetitions(change.lsn):
            if change.transaction not in self._skipped:
                taken.late.append(change)
        elif self._is_late(stream, change):
            stream.memory.insert(change.lsn, event_mark(change))
            taken.assembler.add_late(change)

    def _was_sent_elsewhere(self, change: Change, stream: PartitionStream) -> bool:
        """Return whether the event was sent to another partition before, and partitions were added to the topic since.

        A key then belongs to another partition, and a relay that takes over repeats the event in the new partition.
        """
        others = self._history.others(stream)
        return change.lsn > self._cutover.lsn and self._rules.was_sent_to(others, change, self._history.applied_lsn)

    def _is_late(self, stream: PartitionStream, change: Change) -> bool:
        if self._was_sent_elsewhere(change, stream):
            return False
        try:
            return self._rules.is_late(stream, change, self._history.applied_lsn)
        except DataError as error:
            raise BadMessageError(change.offset, error) from error


class _TakenEvents:
    """Collect the events that are taken from a stream."""

    def __init__(self, stream: PartitionStream, assembler: TransactionAssembler, by_key: ByKeyEvents) -> None:
        self.stream = stream
        self.assembler = assembler
        self.first: Change | None = None
        self.last: Change | None = None
        self.changes: list[Change] = []
        """The changes that go by key."""
        self.late: list[Change] = []
        """The changes that go by key, with smaller lsns than changes before, and the deletes of tombstones."""
        self._by_key = by_key
        self._tombstones: list[Tombstone] = []

    def note(self, change: Change) -> None:
        """Take note of an event whose lsn is above the lsns before."""
        self.first = self.first or change
        self.last = change
        self.stream.lsn = change.lsn

    def add_tombstone(self, message: Any, before: Any) -> None:
        tombstone = self._by_key.read_tombstone(self.stream, message, before, follows_events=bool(self.changes))
        if isinstance(tombstone, Tombstone):
            self._tombstones.append(tombstone)
            self.changes.append(tombstone)
        elif tombstone is not None:
            self.late.append(tombstone)

    def finish(self) -> None:
        if self.changes or self.late:
            self._by_key.merge.add(self.stream, self.changes, self._tombstones, self.late)
