"""Decide for each message whether its event is assembled into a transaction or applied by key."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rowcast.consumer.events.change import Change, UnknownShapeError, read_change
from rowcast.consumer.events.position import Partition, Position, message_target
from rowcast.consumer.events.source_notes import other_timeline
from rowcast.consumer.events.tombstone import Tombstone, TombstoneReader
from rowcast.consumer.events.transactions import Transaction
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.lost_deletes import LostDeletes, fetch_delete_retention
from rowcast.consumer.reading.lsn_merge import LsnMerge, lsn_of
from rowcast.consumer.reading.lsn_rules import LsnRules, event_mark, record_mark
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.topic_metadata import add_shape, new_asker, read_shapes
from rowcast.consumer.reading.transaction_assembler import TransactionAssembler
from rowcast.shared.errors import DataError, SuspectError
from rowcast.shared.kafka.messages import TransactionEvent, parse_transaction
from rowcast.shared.kafka.signature import SignatureCheck

_log = logging.getLogger("rowcast.worker")


class MessageRouter:
    """Take messages in and return transactions.

    While the replica loads, all events go *by key*: the partitions of each topic are merged by lsn. When the topics'
    ends are reached, the router cuts over. The cutover lsn is the greatest lsn that was read so far. Events up to the
    cutover lsn, and the rest of the transaction at the cutover, still go by key. Later events are assembled to
    transactions.
    """

    def __init__(self, context: ReaderContext) -> None:
        self._settings = context.settings
        self._signatures = SignatureCheck(context.settings.signature_keys)
        self._layouts = context.layouts
        self._timeline = context.timeline
        self._by_key_positions: dict[Partition, Position] = {}
        self._returned: dict[Partition, Position] = dict(context.positions)
        self._begun_transaction: str | None = None
        self._greatest_lsn = 0
        self._cutover_lsn = 0
        self._cutover_transaction: str | None = None
        self._is_cutting_over = False
        self._last_transaction = context.last_transaction
        self._skips = context.skips
        self._rules = LsnRules(context.settings, context.positions)
        self.assembler = TransactionAssembler(context.layouts.is_wanted, context.skips.transactions)
        self.merge = LsnMerge()
        self.lost_deletes = LostDeletes(context.settings, context.positions.keys(), fetch_delete_retention)
        self.lost_deletes.known_ms = context.deletes_known_ms
        self._applied_ms = context.deletes_known_ms
        self._tombstones = TombstoneReader(context.layouts, context.settings.topic_of)
        self._table_streams: dict[str, list[PartitionStream]] = {}
        """The streams of each table's topic whose messages were taken."""
        self.by_key = context.loading
        self.has_new_shapes = False
        """Set when a new shape was read. The reader thread resets it."""
        self.applied_end_lsn = 0
        """The lsn of the last END that had been applied before reading began."""
        self.stale_partition: Partition | None = None
        """Set to a partition that has an event from before ``applied_end_lsn`` which was not applied. Its table is new
        to the replica, so the transaction of the event can never be assembled."""

    def take(self, stream: PartitionStream, messages: Sequence[Any]) -> None:
        """Take the next messages of ``stream``.

        Raise DataError with topic, partition, offset and reason if a message is not valid. The messages before it have
        been taken then.
        """
        if stream.kind == "table" and stream not in (known := self._table_streams.setdefault(stream.partition[0], [])):
            known.append(stream)
        if self.by_key and stream.kind == "table":
            self.lost_deletes.examine(stream, messages)
        take = self._take_changes if stream.kind == "table" else self._take_others
        try:
            take(stream, self._without_skipped(stream, messages))
        except _BadMessageError as bad:
            stream.next_offset = bad.offset
            kind = SuspectError if isinstance(bad.error, SuspectError) else DataError
            error = kind(f"{stream.where(bad.offset)}: {bad.error}")
            if kind is DataError:
                error.skip = message_target(stream.partition, bad.offset)
            raise error from bad.error
        stream.next_offset = messages[-1].offset() + 1
        stream.last_message = messages[-1]
        stream.at_end = False

    def _without_skipped(self, stream: PartitionStream, messages: Sequence[Any]) -> Sequence[Any]:
        """Leave out the messages that ``--skip`` names. The END of the transaction still counts the messages."""
        offsets = self._skips.offsets(stream.partition)
        skipped = [message for message in messages if message.offset() in offsets] if offsets else []
        for message in skipped:
            _log.warning("%s is left out, because --skip names it", stream.where(message.offset()))
            if stream.kind == "table" and message.value() is not None and not self.by_key:
                try:
                    change = read_change(
                        message.key(), message.value(), stream.partition, message.offset(), self._layouts
                    )
                except DataError:
                    continue  # Nothing is known of its transaction, which then lacks an event.
                if change is not None and change.lsn > stream.lsn:
                    self.assembler.leave_out(change)
        return [message for message in messages if message.offset() not in offsets] if skipped else messages

    def _take_changes(self, stream: PartitionStream, messages: Sequence[Any]) -> None:
        # The loop runs fifty thousand times a second, so attributes are looked up once.
        partition, layouts, add = stream.partition, self._layouts, self.assembler.add
        by_key_changes: list[Change] = []
        tombstones: list[Tombstone] = []
        by_key, cutover_lsn, cutover_transaction = self.by_key, self._cutover_lsn, self._cutover_transaction
        skipped, limit, lsn = self._skips.transactions, self._rules.limit, stream.lsn
        add_lsn, add_mark = stream.memory.add_lsn, stream.memory.add_mark
        first_lsn = self._layouts.notes.first_lsn
        others = [other for other in self._table_streams[partition[0]] if other is not stream]
        read_elsewhere = 0 if by_key else max(self._applied_lsn, 0, *(other.lsn for other in others))
        # The greatest lsn that needs a closer look. A usual event has a greater one.
        floor = max(lsn, first_lsn - 1, read_elsewhere)
        first = change = None
        try:
            for place, message in enumerate(messages):
                value = message.value()
                if value is None:
                    # By transaction, a tombstone serves compaction alone: END counts the delete before the tombstone.
                    if by_key or (self._is_cutting_over and lsn <= cutover_lsn):
                        before = messages[place - 1] if place else stream.last_message
                        tombstone = self._tombstones.read(message, before, partition)
                        if tombstone is not None:
                            tombstones.append(tombstone)
                            by_key_changes.append(tombstone)
                        elif by_key_changes or stream.held:
                            stream.repeated_tombstones.add(message.offset())
                        elif by_key:
                            self._by_key_positions[partition] = Position(message.offset() + 1, lsn)
                    continue
                offset = message.offset()
                try:
                    read = read_change(message.key(), value, partition, offset, layouts)
                except UnknownShapeError:
                    read = self._read_after_shapes(message, partition, offset)
                except DataError as error:
                    raise _BadMessageError(offset, error) from error
                if read is None:
                    continue  # The table is not wanted.
                read_lsn = read.lsn
                if not floor < read_lsn <= limit:
                    if read_lsn < first_lsn:
                        continue  # The event belongs to a timeline that has ended.
                    if read_lsn <= lsn:
                        # Usually the event was sent twice, because lsns only grow. By key it is applied again, in the
                        # place where it is, because compaction keeps the last event of a key and may have removed the
                        # first copy.
                        if by_key or (self._is_cutting_over and read_lsn <= cutover_lsn):
                            if read.transaction not in skipped:
                                by_key_changes.append(read._replace(lsn=lsn))
                        elif self._is_late(stream, read, others):
                            stream.memory.insert(read_lsn, event_mark(read))
                            self.assembler.add_late(read)
                        continue
                    if read_lsn > limit:
                        raise _BadMessageError(offset, self._rules.leap(read_lsn))
                    if read_lsn <= read_elsewhere and self._was_sent_elsewhere(read, others):
                        continue
                change = read
                first = first or change
                lsn = read_lsn
                if lsn > floor:
                    floor = lsn
                if not by_key:
                    add_lsn(lsn)
                    add_mark(hash((change.transaction, change.key)))
                elif skipped and change.transaction in skipped:
                    continue
                if (
                    by_key
                    or lsn <= cutover_lsn
                    or (cutover_transaction is not None and change.transaction == cutover_transaction)
                ):
                    by_key_changes.append(change)
                else:
                    add(change)
        finally:
            if first is not None and change is not None:
                if first.lsn < self.applied_end_lsn and not by_key:
                    self.stale_partition = partition
                stream.lsn = lsn
                stream.transaction = change.transaction
                stream.memory.bound()
                self._rules.note(lsn)
                self._greatest_lsn = max(self._greatest_lsn, lsn)
            if by_key_changes:
                self.merge.add(stream, by_key_changes, tombstones)

    def _was_sent_elsewhere(self, change: Change, others: Sequence[PartitionStream]) -> bool:
        """Return whether the event was sent to another partition before, and partitions were added to the topic since.

        A key then belongs to another partition, and a relay that takes over sends the event again there.
        """
        return change.lsn > self._cutover_lsn and self._rules.was_sent_to(others, change, self._applied_lsn)

    @property
    def _applied_lsn(self) -> int:
        """Return the lsn of the last END whose transaction was returned or had been applied before."""
        return max(self.applied_end_lsn, self.assembler.popped_lsn)

    def _is_late(self, stream: PartitionStream, change: Change, others: Sequence[PartitionStream]) -> bool:
        if self._was_sent_elsewhere(change, others):
            return False
        try:
            return self._rules.is_late(stream, change, self._applied_lsn)
        except DataError as error:
            raise _BadMessageError(change.offset, error) from error

    def _read_after_shapes(self, message: Any, partition: Partition, offset: int) -> Change | None:
        """Read the schema topic to the end, and then an event with a shape unknown before."""
        with new_asker(self._settings) as asker:
            read_shapes(asker, self._settings, self._layouts, self._skips)
        self.has_new_shapes = True
        try:
            return read_change(message.key(), message.value(), partition, offset, self._layouts, infer=True)
        except DataError as error:
            raise _BadMessageError(offset, error) from error

    def _take_others(self, stream: PartitionStream, messages: Sequence[Any]) -> None:
        for message in messages:
            value = message.value()
            if value is None:
                continue
            try:
                self._signatures.check(stream.partition[0], message.key(), value, message.headers())
                if stream.kind == "schema":
                    self.has_new_shapes |= add_shape(value, self._layouts, message.offset())
                    self._require_timeline(self._layouts.notes.timeline)
                else:
                    self._take_begin_or_end(stream, value, message.offset())
            except DataError as error:
                raise _BadMessageError(message.offset(), error) from error

    def _require_timeline(self, timeline: int) -> None:
        # Messages of earlier timelines have smaller lsns, and are left out.
        if timeline > self._timeline:
            raise other_timeline(self._timeline, timeline)

    def _take_begin_or_end(self, stream: PartitionStream, value: bytes, offset: int) -> None:
        event = parse_transaction(value)
        self._require_timeline(event.timeline)
        if event.lsn < self._layouts.notes.first_lsn:
            return
        if event.lsn <= stream.lsn:
            self._rules.require_repetition(stream, event, offset)
            return
        self._rules.require_plausible(event)
        self._require_shapes(event)
        stream.memory.remember(event.lsn, record_mark(event))
        stream.lsn = event.lsn
        identity = event.id.partition(":")[0]
        if event.status == "BEGIN":
            self._begun_transaction = identity
            return
        self._begun_transaction = None
        # While events go by key, the END is kept too: the cutover may come before its events.
        if not self.by_key and (event.lsn <= self._cutover_lsn or self._is_cutover_transaction(identity)):
            self._by_key_positions[stream.partition] = Position(offset + 1, event.lsn)
        else:
            self.assembler.add_end(event, stream.partition, offset)

    def _require_shapes(self, event: TransactionEvent) -> None:
        """Raise DataError if an END counts events of a wanted table without a shape.

        The relay commits a shape before it sends the first event, so the shape is there when the END is.
        """
        counted = [table for table, count in (event.data_collections or {}).items() if count]
        if all(map(self._layouts.is_known, counted)):
            return
        with new_asker(self._settings) as asker:
            read_shapes(asker, self._settings, self._layouts, self._skips)
        self.has_new_shapes = True
        for table in counted:
            if not self._layouts.is_known(table):
                raise DataError(f"transaction {event.id} has events of table {table}: {self._layouts.no_shape(table)}")

    def _is_cutover_transaction(self, transaction: str | None) -> bool:
        return transaction is not None and transaction == self._cutover_transaction

    def pop_ready(self, streams: Collection[PartitionStream]) -> list[Transaction]:
        """Remove and return everything that can be applied now. ``streams``: all streams of the reader."""
        transactions = self._pop_by_key(streams)
        # The transactions of a table that is new to the replica may have been applied without the table.
        if not self.by_key and not self._is_cutting_over and self.stale_partition is None:
            # Even at the topic's end, an END of a smaller lsn may still be on its way, because brokers write at their
            # own pace. The relay writes a BEGIN and an END after the rows of each chunk.
            up_to_lsn = min((stream.lsn for stream in streams if stream.kind == "transaction"), default=math.inf)
            transactions += self.assembler.pop_complete(up_to_lsn)
        for transaction in transactions:
            self._returned.update(transaction.positions)
            if not transaction.by_key:
                self._applied_ms = transaction.ts_ms
        return transactions

    def _pop_by_key(self, streams: Collection[PartitionStream]) -> list[Transaction]:
        if self.by_key:
            self._by_key_positions |= self.assembler.drop_ends(self._greatest_lsn)
        changes, positions = self.merge.release(streams, is_alone=self.by_key) if self.merge.held_events else ([], {})
        positions = self._by_key_positions | positions
        self._by_key_positions = {}
        if not positions:
            return []
        last = max(changes, key=lsn_of, default=None)
        if last is None:
            return [Transaction(None, 0, 0, positions=positions, by_key=True)]
        return [Transaction(last.transaction, last.lsn, last.ts_ms, changes, positions, by_key=True)]

    def pop_idle(self, streams: Iterable[PartitionStream]) -> Transaction:
        """Return a transaction without changes, with the positions after all records that were read.

        Call this only if ``is_empty``.
        """
        positions = {stream.partition: stream.position for stream in streams if stream.kind != "schema"}
        self._returned |= positions
        return Transaction(None, 0, 0, positions=positions, by_key=self.by_key)

    def return_to_loading(
        self, table_streams: Collection[PartitionStream], first_lost_ms: int | None = None
    ) -> list[PartitionStream]:
        """Let all events that have not been returned go by key. Return the streams to read again from their offset.

        ``first_lost_ms``: the time of the first transaction that lacks events, if the time is known.
        Abandon transactions. Tombstones between the events were skipped so far, and have a meaning by key. Therefore
        the held events are dropped and read again, with everything after them.
        """
        if not self.by_key:
            # All deletes of the transactions before are known.
            self.lost_deletes.known_ms = self._applied_ms if first_lost_ms is None else first_lost_ms
            self.lost_deletes.include({topic for topic, _ in self._returned})
        self.by_key = True
        self.stale_partition, self.applied_end_lsn = None, 0
        self._by_key_positions |= self.assembler.abandon_transactions()
        self.merge.clear(table_streams)
        rewound = []
        for stream in table_streams:
            position = max(stream.start, self._returned.get(stream.partition, stream.start))
            if position.next_offset < stream.next_offset:
                stream.next_offset, stream.lsn = position
                stream.last_message, stream.at_end = None, False
                rewound.append(stream)
        self._greatest_lsn = max((stream.lsn for stream in table_streams), default=0)
        return rewound

    def cut_over(self, table_streams: Collection[PartitionStream]) -> None:
        """Assemble transactions from now on. Set the cutover at the greatest lsn that was read.

        No transaction is returned before ``finish_cutover``, because events of smaller lsns may still come.
        """
        self.by_key = False
        self._is_cutting_over = True
        for stream in table_streams:
            # Compaction may have removed the first of two messages that were sent twice.
            stream.memory.forget(stream.lsn)
        furthest = max(table_streams, key=lambda stream: stream.lsn, default=None)
        if furthest is not None:
            self._cutover_lsn = furthest.lsn
            # The stream has no transaction if an earlier run of the worker has read it.
            self._cutover_transaction = furthest.transaction or self._last_transaction
        self._by_key_positions |= self.assembler.drop_ends(self._cutover_lsn, self._cutover_transaction)

    def finish_cutover(self) -> None:
        """Return transactions from now on. All events up to the cutover have been returned."""
        self._is_cutting_over = False

    def has_passed_cutover(self, transaction_stream: PartitionStream) -> bool:
        """Return whether the transaction at the cutover has ended. The replica is then where the primary was."""
        return transaction_stream.lsn >= self._cutover_lsn

    def is_past_cutover(self, stream: PartitionStream) -> bool:
        """Return whether a table's stream has no more events of the transactions up to the cutover."""
        return stream.lsn > self._cutover_lsn and not self._is_cutover_transaction(stream.transaction)

    @property
    def cutover_lsn(self) -> int:
        """Return the greatest lsn that was read by key, or 0 if no event was."""
        return self._cutover_lsn

    @property
    def cutover_is_open(self) -> bool:
        """Return whether the BEGIN at the cutover was read.

        An END is sure to come then. Without a BEGIN, the END may have been deleted already.
        """
        return self._begun_transaction is not None and self._begun_transaction == self._cutover_transaction

    @property
    def is_empty(self) -> bool:
        """Return whether everything that was read has been returned."""
        return not (
            self.merge.held_events
            or self._by_key_positions
            or self.assembler.pending_events
            or self.assembler.pending_ends
        )


class _BadMessageError(Exception):
    """The message at ``offset`` is not valid."""

    def __init__(self, offset: int, error: DataError) -> None:
        self.offset = offset
        self.error = error
