"""Decide for each message whether its event is assembled into a transaction or applied by key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rowcast.consumer.events.change import Change, UnknownShapeError, read_change
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.transactions import Transaction
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.topic_metadata import add_shape, new_asker, read_shapes
from rowcast.consumer.reading.transaction_assembler import TransactionAssembler
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import parse_transaction


class MessageRouter:
    """Take messages in and return transactions.

    While the replica loads, all events go *by key*: as they come, in the order of their partition. When the topics'
    ends are reached, the router cuts over. The cutover lsn is the greatest lsn that was read so far. Events up to the
    cutover lsn, and the rest of the transaction at the cutover, still go by key. Later events are assembled to
    transactions.
    """

    def __init__(self, context: ReaderContext) -> None:
        self._settings = context.settings
        self._layouts = context.layouts
        self._by_key_changes: list[Change] = []
        self._by_key_positions: dict[Partition, Position] = {}
        self._advanced_streams: dict[PartitionStream, None] = {}
        self._begun_transaction: str | None = None
        self._greatest_lsn = 0
        self._cutover_lsn = 0
        self._cutover_transaction: str | None = None
        self._last_transaction = context.last_transaction
        self.assembler = TransactionAssembler(context.layouts.is_wanted)
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
        take = self._take_changes if stream.kind == "table" else self._take_others
        try:
            take(stream, messages)
        except _BadMessageError as bad:
            stream.next_offset = bad.offset
            raise DataError(f"{stream.where(bad.offset)}: {bad.error}") from bad.error
        stream.next_offset = messages[-1].offset() + 1
        stream.at_end = False

    def _take_changes(self, stream: PartitionStream, messages: Sequence[Any]) -> None:
        # The loop runs fifty thousand times a second, so attributes are looked up once.
        partition, layouts, add, by_key_changes = (
            stream.partition,
            self._layouts,
            self.assembler.add,
            self._by_key_changes,
        )
        by_key, cutover_lsn, cutover_transaction = self.by_key, self._cutover_lsn, self._cutover_transaction
        lsn = stream.lsn
        first = change = None
        try:
            for message in messages:
                value = message.value()
                if value is None:
                    continue  # A tombstone serves compaction alone.
                offset = message.offset()
                try:
                    read = read_change(message.key(), value, partition, offset, layouts)
                except UnknownShapeError:
                    read = self._read_after_shapes(message, partition, offset)
                except DataError as error:
                    raise _BadMessageError(offset, error) from error
                if read is None or read.lsn <= lsn:
                    continue  # The table is not wanted, or the event was sent twice: lsns only grow.
                change = read
                first = first or change
                lsn = change.lsn
                if by_key:
                    by_key_changes.append(change)
                elif lsn <= cutover_lsn or (
                    cutover_transaction is not None and change.transaction == cutover_transaction
                ):
                    by_key_changes.append(change)
                    self._by_key_positions[partition] = Position(offset + 1, lsn)
                else:
                    add(change)
        finally:
            if first is not None and change is not None:
                if first.lsn < self.applied_end_lsn and not by_key:
                    self.stale_partition = partition
                stream.lsn = lsn
                stream.transaction = change.transaction
                self._greatest_lsn = max(self._greatest_lsn, lsn)
                if by_key:
                    self._advanced_streams[stream] = None

    def _read_after_shapes(self, message: Any, partition: Partition, offset: int) -> Change | None:
        """Read the schema topic to the end, and then an event with a shape unknown before."""
        with new_asker(self._settings) as asker:
            read_shapes(asker, self._settings, self._layouts)
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
                if stream.kind == "schema":
                    self.has_new_shapes |= add_shape(value, self._layouts, message.offset())
                else:
                    self._take_begin_or_end(stream, value, message.offset())
            except DataError as error:
                raise _BadMessageError(message.offset(), error) from error

    def _take_begin_or_end(self, stream: PartitionStream, value: bytes, offset: int) -> None:
        event = parse_transaction(value)
        if event.lsn <= stream.lsn:
            return
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

    def _is_cutover_transaction(self, transaction: str | None) -> bool:
        return transaction is not None and transaction == self._cutover_transaction

    def pop_ready(self, transaction_streams: Iterable[PartitionStream]) -> list[Transaction]:
        """Remove and return everything that can be applied now.

        ``transaction_streams``: the streams of the transaction topic.
        """
        if self.by_key:
            self._by_key_positions |= self.assembler.drop_ends(self._greatest_lsn)
        positions = self._by_key_positions | {stream.partition: stream.position for stream in self._advanced_streams}
        changes = self._by_key_changes
        self._by_key_changes, self._by_key_positions, self._advanced_streams = [], {}, {}
        # Even at the topic's end, an END of a smaller lsn may still be on its way, because brokers write at their own
        # pace. The relay writes a BEGIN and an END after the rows of each chunk.
        up_to_lsn = min((stream.lsn for stream in transaction_streams), default=math.inf)
        complete = [] if self.by_key else self.assembler.pop_complete(up_to_lsn)
        if not positions:
            return complete
        last = max(changes, key=lambda change: change.lsn, default=None)
        if last is None:
            return [Transaction(None, 0, 0, positions=positions, by_key=True), *complete]
        return [Transaction(last.transaction, last.lsn, last.ts_ms, changes, positions, by_key=True), *complete]

    def return_to_loading(self, table_streams: Iterable[PartitionStream]) -> None:
        """Abandon transactions. From now on, the held and the coming events of these streams go by key."""
        self.by_key = True
        self.stale_partition, self.applied_end_lsn = None, 0
        changes, positions = self.assembler.abandon_transactions()
        self._by_key_changes += changes
        self._by_key_positions |= positions
        self._advanced_streams = dict.fromkeys(table_streams)
        self._greatest_lsn = max((stream.lsn for stream in self._advanced_streams), default=0)

    def cut_over(self, table_streams: Iterable[PartitionStream]) -> None:
        """Assemble transactions from now on. Set the cutover at the greatest lsn that was read."""
        self.by_key = False
        furthest = max(table_streams, key=lambda stream: stream.lsn, default=None)
        if furthest is not None:
            self._cutover_lsn = furthest.lsn
            # The stream has no transaction if an earlier run of the worker has read it.
            self._cutover_transaction = furthest.transaction or self._last_transaction
        self._by_key_positions |= self.assembler.drop_ends(self._cutover_lsn, self._cutover_transaction)

    def has_passed_cutover(self, transaction_stream: PartitionStream) -> bool:
        """Return whether the transaction at the cutover has ended. The replica is then where the primary was."""
        return transaction_stream.lsn >= self._cutover_lsn

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
            self._by_key_changes
            or self._advanced_streams
            or self._by_key_positions
            or self.assembler.pending_events
            or self.assembler.pending_ends
        )


class _BadMessageError(Exception):
    """The message at ``offset`` is not valid."""

    def __init__(self, offset: int, error: DataError) -> None:
        self.offset = offset
        self.error = error
