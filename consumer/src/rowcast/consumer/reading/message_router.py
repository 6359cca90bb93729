"""Route messages by topic, and return the transactions that can be applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.source_notes import other_timeline
from rowcast.consumer.events.transactions import Transaction
from rowcast.consumer.reading.bad_message import BadMessageError
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.cutover import Cutover
from rowcast.consumer.reading.key_partitions import KeyPartitions
from rowcast.consumer.reading.lost_deletes import LostDeletes, fetch_delete_retention
from rowcast.consumer.reading.lsn_rules import LsnRules
from rowcast.consumer.reading.new_shapes import NewShapes
from rowcast.consumer.reading.partition_stream import PartitionStream, TopicKind
from rowcast.consumer.reading.signed_messages import take_signed
from rowcast.consumer.reading.table_events import TableEvents
from rowcast.consumer.reading.transaction_assembler import TransactionAssembler
from rowcast.consumer.reading.transaction_records import TransactionRecords
from rowcast.consumer.reading.unread_events import UnreadEvents
from rowcast.shared.kafka.signature import SignatureCheck
from rowcast.shared.kafka.topic_names import transaction_topic


class MessageRouter:
    """Take messages in and return transactions.

    While the replica loads, all events go *by key*: the partitions of each topic are merged by lsn. When the topics'
    ends are reached, the router cuts over (``Cutover``). Later events are assembled to transactions.
    """

    def __init__(self, context: ReaderContext) -> None:
        self._layouts = context.layouts
        self._signatures = SignatureCheck(context.settings.signature_keys)
        self._timeline = context.timeline
        self._returned: dict[Partition, Position] = dict(context.positions)
        self._applied_ms = context.deletes_known_ms
        self._rules = LsnRules(context.settings, context.positions)
        self.assembler = TransactionAssembler(context.layouts.is_wanted, context.skips.transactions)
        ends = context.positions.get((transaction_topic(context.settings.source), 0), Position(0, 0))
        abandoned_lsn = ends.lsn if context.loading else 0
        self.cutover = Cutover(context.last_transaction, by_key=context.loading, abandoned_lsn=abandoned_lsn)
        self.new_shapes = NewShapes(context)
        self._key_partitions = KeyPartitions({} if context.share is None else context.share.divided)
        self._tables = TableEvents(context, self.cutover, self.assembler, self._rules, self.new_shapes)
        self._by_key = self._tables.by_key_events
        self.history = self._tables.history
        self._records = TransactionRecords(
            context, self.cutover, self.assembler, self._rules, self.new_shapes, self._by_key
        )
        self._takes: Mapping[TopicKind, Callable[[PartitionStream, Sequence[Any]], None]] = {
            "table": self._tables.take, "transaction": self._records.take, "schema": self._take_shapes,
        }  # fmt: skip
        self._unread = UnreadEvents(context, self.cutover, self.assembler, self._rules, self.history)
        self.merge = self._by_key.merge
        self.lost_deletes = LostDeletes(context.settings, context.positions.keys(), fetch_delete_retention)
        self.lost_deletes.known_ms = context.deletes_known_ms
        if context.share is not None and context.share.follows:
            self.lost_deletes.known_in = dict(context.share.known_ms)

    def take(self, stream: PartitionStream, messages: Sequence[Any]) -> None:
        """Take the next messages of ``stream``.

        Raise DataError with topic, partition, offset and reason if a message is not valid. The messages before it have
        been taken then. Raise ScatteredKeysError for a message that other processes could have newer events of.
        """
        if stream.kind == "table":
            self._key_partitions.require(stream, messages)
        if self.cutover.by_key and stream.kind == "table":
            self.lost_deletes.examine(stream, messages)
        take = self._takes[stream.kind]
        wanted = self._tables.without_skipped(stream, messages)
        while wanted:
            try:
                take(stream, wanted)
                break
            except BadMessageError as bad:
                stream.next_offset = bad.offset
                place = next(place for place, message in enumerate(wanted) if message.offset() == bad.offset)
                error = bad.to_data_error(stream)
                if not (bad.is_unreadable and self._unread.take(stream, wanted[place], error)):
                    raise error from bad.error
                stream.last_message = wanted[place]
                wanted = wanted[place + 1 :]
        stream.next_offset = messages[-1].offset() + 1
        stream.last_message = messages[-1]
        stream.at_end = False

    def _take_shapes(self, stream: PartitionStream, messages: Sequence[Any]) -> None:
        take_signed(stream, messages, self._signatures, self._take_shape)

    def _take_shape(self, value: bytes, offset: int) -> None:
        self.new_shapes.add(value, offset)
        # Messages of earlier timelines have smaller lsns, and are left out.
        if self._layouts.notes.timeline > self._timeline:
            raise other_timeline(self._timeline, self._layouts.notes.timeline)

    def pop_ready(self, streams: Collection[PartitionStream]) -> list[Transaction]:
        """Remove and return everything that can be applied now. ``streams``: all streams of the reader."""
        if self.cutover.by_key:
            self._by_key.positions |= self.assembler.drop_ends(self.history.greatest_lsn)
        transactions = self._by_key.pop(streams)
        # The transactions of a table that is new to the replica may have been applied without the table.
        if not self.cutover.by_key and not self.cutover.is_under_way and self.history.stale_partition is None:
            # Even at the topic's end, an END of a smaller lsn may still be on its way, because brokers write at their
            # own pace. The relay writes a BEGIN and an END after the rows of each chunk.
            up_to_lsn = min((stream.lsn for stream in streams if stream.kind == "transaction"), default=math.inf)
            transactions += self.assembler.pop_complete(up_to_lsn)
        transactions += self._unread.pop()
        for transaction in transactions:
            self._note_known(transaction)
            self._returned.update(transaction.positions)
            if not transaction.by_key:
                self._applied_ms = transaction.ts_ms
        return transactions

    def pop_idle(self, streams: Iterable[PartitionStream]) -> Transaction:
        """Return a transaction without changes, with the positions after all read records.

        Call this only if ``is_empty``.
        """
        positions = {stream.partition: stream.position for stream in streams if stream.kind != "schema"}
        self._returned |= positions
        idle = Transaction(None, 0, 0, positions=positions, by_key=self.cutover.by_key)
        self._note_known(idle)
        return idle

    def _note_known(self, transaction: Transaction) -> None:
        known = self.lost_deletes.known_in
        if known is not None:
            transaction.known_ms = {partition: known.get(partition, 0) for partition in transaction.positions}

    def return_to_loading(
        self, table_streams: Collection[PartitionStream], first_lost_ms: int | None = None
    ) -> list[PartitionStream]:
        """Let all events that have not been returned go by key. Return the streams to read again from their offset.

        ``first_lost_ms``: the time of the first transaction that lacks events, if the time is known. Abandon
        transactions. Tombstones between the events were skipped before, and have a meaning by key. Therefore the held
        events are dropped and read again, with all later messages.
        """
        if not self.cutover.by_key:
            # All deletes of the transactions before are known.
            self.lost_deletes.known_ms = self._applied_ms if first_lost_ms is None else first_lost_ms
            self.lost_deletes.include({topic for topic, _ in self._returned})
        self.cutover.by_key = True
        self.history.forget_applied()
        abandoned = self.assembler.abandon_transactions()
        for position in abandoned.values():
            self.cutover.abandon(position.lsn)
        self._by_key.positions |= abandoned
        rewound = []
        for stream in table_streams:
            position = max(stream.start, self._returned.get(stream.partition, stream.start))
            if position.next_offset < stream.next_offset:
                stream.next_offset, stream.lsn = position
                stream.last_message, stream.at_end = None, False
                rewound.append(stream)
        self.merge.clear(table_streams)
        self.history.greatest_lsn = max((stream.lsn for stream in table_streams), default=0)
        return rewound

    def cut_over(self, table_streams: Collection[PartitionStream]) -> None:
        """Assemble transactions from now on. Set the cutover at the greatest lsn that was read.

        No transaction is returned before the cutover is finished, because events of smaller lsns may still come.
        """
        self.cutover.begin(table_streams)
        self._by_key.positions |= self.assembler.drop_ends(self.cutover.lsn, self.cutover.transaction)

    @property
    def is_empty(self) -> bool:
        """Return whether everything that was read has been returned."""
        return not (
            self.merge.held_events
            or self._by_key.positions
            or self.assembler.pending_events
            or self.assembler.pending_ends
        )
