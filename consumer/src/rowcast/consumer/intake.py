"""What becomes of a message: an event of a transaction that is being put together, or one to be applied by key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rowcast.consumer.changes import Change, Partition, UnknownShapeError, read_change
from rowcast.consumer.layouts import Layouts
from rowcast.consumer.merge import Merge
from rowcast.consumer.positions import Position
from rowcast.consumer.streams import Stream
from rowcast.consumer.topics import read_shape, read_shapes
from rowcast.consumer.transactions import Transaction
from rowcast.shared.config import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.events import parse_transaction


class Intake:
    """Messages go in, transactions come out.

    While the replica loads, everything goes *by key*: as it comes, in the order of its partition. When the topics' ends
    are reached there is a seam: the greatest lsn handed over so far. Events up to there, and the rest of that one's
    transaction, still go by key; what is later is put together by transaction.
    """

    def __init__(self, settings: Settings, layouts: Layouts, *, by_key: bool, last_transaction: str | None) -> None:
        self._settings = settings
        self._layouts = layouts
        self._loose: list[Change] = []
        self._loose_reach: dict[Partition, Position] = {}
        self._touched: dict[Stream, None] = {}
        self._begun: str | None = None
        self._furthest_lsn = 0
        self._seam_lsn = 0
        self._seam_transaction: str | None = None
        self._last_transaction = last_transaction
        self.merge = Merge(layouts.wants)
        self.by_key = by_key
        self.new_shapes = False
        """Set when a shape was read that is news."""
        self.ended_lsn = 0
        """ENDs up to here had been applied before reading began."""
        self.past: Partition | None = None
        """Set to a partition that has an event from before ``ended_lsn`` which was not applied: its table is new to the
        replica, and its transaction will never be put together again."""

    def take(self, stream: Stream, messages: Sequence[Any]) -> None:
        """The next messages of ``stream``. Raises DataError naming topic, partition, offset and reason; those before
        it have been taken in."""
        take = self._take_changes if stream.kind == "table" else self._take_others
        try:
            take(stream, messages)
        except _BadMessageError as bad:
            stream.next_offset = bad.offset
            raise DataError(f"{stream.where(bad.offset)}: {bad.error}") from bad.error
        stream.next_offset = messages[-1].offset() + 1
        stream.at_end = False

    def _take_changes(self, stream: Stream, messages: Sequence[Any]) -> None:
        # Fifty thousand times a second: what is looked up again and again is at hand.
        partition, layouts, add, loose = stream.partition, self._layouts, self.merge.add, self._loose
        by_key, seam_lsn, seam = self.by_key, self._seam_lsn, self._seam_transaction
        lsn = stream.lsn
        first = change = None
        try:
            for message in messages:
                value = message.value()
                if value is None:
                    continue  # a tombstone, which is for compaction alone
                offset = message.offset()
                try:
                    read = read_change(message.key(), value, partition, offset, layouts)
                except UnknownShapeError:
                    read = self._read_after_shapes(message, partition, offset)
                except DataError as error:
                    raise _BadMessageError(offset, error) from error
                if read is None or read.lsn <= lsn:
                    continue  # not wanted; or sent twice: lsns only grow
                change = read
                first = first or change
                lsn = change.lsn
                if by_key:
                    loose.append(change)
                elif lsn <= seam_lsn or (seam is not None and change.transaction == seam):
                    loose.append(change)
                    self._loose_reach[partition] = Position(offset + 1, lsn)
                else:
                    add(change)
        finally:
            if first is not None and change is not None:
                if first.lsn < self.ended_lsn and not by_key:
                    self.past = partition
                stream.lsn = lsn
                stream.transaction = change.transaction
                self._furthest_lsn = max(self._furthest_lsn, lsn)
                if by_key:
                    self._touched[stream] = None

    def _read_after_shapes(self, message: Any, partition: Partition, offset: int) -> Change | None:
        """Reads an event whose shape is not known until the schema topic has been read to its end."""
        read_shapes(self._settings, self._layouts)
        self.new_shapes = True
        try:
            return read_change(message.key(), message.value(), partition, offset, self._layouts, infer=True)
        except DataError as error:
            raise _BadMessageError(offset, error) from error

    def _take_others(self, stream: Stream, messages: Sequence[Any]) -> None:
        for message in messages:
            value = message.value()
            if value is None:
                continue
            try:
                if stream.kind == "schema":
                    self.new_shapes |= read_shape(value, self._layouts, message.offset()) is not None
                else:
                    self._take_mark(stream, value, message.offset())
            except DataError as error:
                raise _BadMessageError(message.offset(), error) from error

    def _take_mark(self, stream: Stream, value: bytes, offset: int) -> None:
        """BEGIN or END."""
        event = parse_transaction(value)
        if event.lsn <= stream.lsn:
            return
        stream.lsn = event.lsn
        identity = event.id.partition(":")[0]
        if event.status == "BEGIN":
            self._begun = identity
            return
        self._begun = None
        # By key too: it may be the END of events behind the seam, wherever that will be.
        if not self.by_key and (event.lsn <= self._seam_lsn or self._in_seam(identity)):
            self._loose_reach[stream.partition] = Position(offset + 1, event.lsn)
        else:
            self.merge.end(event, stream.partition, offset)

    def _in_seam(self, transaction: str | None) -> bool:
        return transaction is not None and transaction == self._seam_transaction

    def out(self, transactions: Iterable[Stream]) -> list[Transaction]:
        """What can be applied by now; each is given out once. ``transactions``: the transaction topic's streams."""
        if self.by_key:
            self._loose_reach |= self.merge.forget(self._furthest_lsn)
        reach = self._loose_reach | {stream.partition: stream.position for stream in self._touched}
        loose = self._loose
        self._loose, self._loose_reach, self._touched = [], {}, {}
        # Not even at a topic's end is it known that no END of a smaller lsn is on its way: brokers write at their own
        # pace. The relay puts a BEGIN and an END behind the rows of each chunk.
        up_to_lsn = min((stream.lsn for stream in transactions), default=math.inf)
        done = [] if self.by_key else self.merge.ready(up_to_lsn)
        if not reach:
            return done
        last = max(loose, key=lambda change: change.lsn, default=None)
        if last is None:
            return [Transaction(None, 0, 0, reach=reach, by_key=True), *done]
        return [Transaction(last.transaction, last.lsn, last.ts_ms, loose, reach, by_key=True), *done]

    def start_by_key(self, streams: Iterable[Stream]) -> None:
        """Gives up transactions: everything held of these tables' streams, and what comes, is handed over by key."""
        self.by_key = True
        self.past, self.ended_lsn = None, 0
        changes, reach = self.merge.give_up()
        self._loose += changes
        self._loose_reach |= reach
        self._touched = dict.fromkeys(streams)
        self._furthest_lsn = max((stream.lsn for stream in self._touched), default=0)

    def end_by_key(self, streams: Iterable[Stream]) -> None:
        """Puts the seam at the greatest lsn that was read."""
        self.by_key = False
        furthest = max(streams, key=lambda stream: stream.lsn, default=None)
        if furthest is not None:
            self._seam_lsn = furthest.lsn
            # Without a transaction: it was read by an earlier run of the worker.
            self._seam_transaction = furthest.transaction or self._last_transaction
        self._loose_reach |= self.merge.forget(self._seam_lsn, self._seam_transaction)

    def seam_passed(self, transactions: Stream) -> bool:
        """Whether the transaction at the seam has ended, so that the replica is where the primary was."""
        return transactions.lsn >= self._seam_lsn

    @property
    def seam_lsn(self) -> int:
        """The greatest lsn that was read by key; 0 if nothing was."""
        return self._seam_lsn

    @property
    def seam_is_open(self) -> bool:
        """Whether the BEGIN at the seam was read, so that its END is sure to come; without, it may be gone by now."""
        return self._begun is not None and self._begun == self._seam_transaction

    @property
    def holds_nothing(self) -> bool:
        """Whether everything that was read has been given out."""
        return not (self._loose or self._touched or self._loose_reach or self.merge.pending or self.merge.endings)


class _BadMessageError(Exception):
    """The message at ``offset`` is none."""

    def __init__(self, offset: int, error: DataError) -> None:
        self.offset = offset
        self.error = error
