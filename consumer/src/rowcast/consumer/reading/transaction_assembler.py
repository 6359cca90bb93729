"""Assemble source transactions from the events of many partitions.

The relay publishes transactions one after another, never interleaved. Therefore each partition holds events in the
order of application, and ENDs come in the order of the transactions. An END counts the events of each table.
"""

from __future__ import annotations

import logging
from bisect import insort
from collections.abc import Callable, Mapping, Sequence, Set
from heapq import heappop, heappush
from itertools import groupby
from typing import NamedTuple

from rowcast.consumer.events.change import Change, transaction_of
from rowcast.consumer.events.dead_letter import UnreadEvent
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.rebuild_hint import REBUILD_COMMAND
from rowcast.consumer.events.transactions import Transaction
from rowcast.consumer.reading.partial_transaction import PartialTransaction, PendingEnd
from rowcast.shared.errors import DataError

_log = logging.getLogger("rowcast.worker")

# Events outside any transaction get ids with this prefix, because no transaction id begins with NUL.
_UNTRANSACTED = "\0"


class End(NamedTuple):
    """An END. ``counts``: the number of events by table."""

    lsn: int
    transaction: str
    ts_ms: int
    counts: Mapping[str, int]
    offset: int


class TransactionAssembler:
    """Take events partition by partition, and return whole transactions in order.

    ``is_wanted``: whether the replica includes a table, given ``schema.table``. ``skipped``: the ids of transactions
    whose events are left out.
    """

    def __init__(self, is_wanted: Callable[[str], bool], skipped: Set[str] = frozenset()) -> None:
        self._is_wanted = is_wanted
        self._skipped = skipped
        self._partial: dict[str, PartialTransaction] = {}
        self._ends: list[PendingEnd] = []
        self._end_ids: dict[str, int] = {}
        """The ids of the pending ENDs, and how often each is pending."""
        self._open: list[tuple[int, str]] = []
        """A heap of the first lsn and the id of transactions whose END may not have been read."""
        self._dropped: dict[Partition, Position] = {}
        """The positions after skipped transactions without an END, for the next transaction that is returned."""
        self.popped_lsn = 0
        """The lsn of the last END that was returned."""
        self._untransacted = 0
        self.pending_events = 0
        """The number of events held."""

    def add_run(self, changes: Sequence[Change]) -> None:
        """Add the next events of a partition. Their lsns must grow, from above all earlier lsns of the partition."""
        for identity, group in groupby(changes, transaction_of):
            if identity is None or identity in self._skipped:
                for change in group:
                    self.add(change)
            else:
                self._extend(identity, list(group))

    def add(self, change: Change) -> None:
        """Add the next event of a partition. The lsn must be greater than all earlier lsns of the partition."""
        identity = change.transaction
        if self._skipped and identity in self._skipped:
            self.leave_out(change)
            return
        if identity is None:
            # An event between transactions is applied by itself, after every transaction of a smaller lsn.
            self._untransacted += 1
            identity = f"{_UNTRANSACTED}{self._untransacted}"
            insort(self._ends, PendingEnd(change.lsn, identity, change.ts_ms, {}, {change.layout.table: 1}, 1))
            self._end_ids[identity] = 1
        self._extend(identity, [change])

    def _extend(self, identity: str, changes: list[Change]) -> None:
        self.pending_events += len(changes)
        partial = self._partial.get(identity) or self._begin(identity, changes[0])
        partial.add(changes)

    def add_late(self, change: Change) -> None:
        """Add an event with a smaller lsn than an earlier event of the partition."""
        partial = self._partial.get(change.transaction or "")
        before = partial.last.get(change.partition) if partial else None
        self.add(change)
        if partial is not None and before is not None and before.lsn > change.lsn:
            # The position after the transaction has its greatest lsn.
            partial.last[change.partition] = change._replace(lsn=before.lsn)

    def leave_out(self, change: Change) -> None:
        """Count the next event of a partition without applying it."""
        if (identity := change.transaction) is None:
            return
        partial = self._partial.get(identity) or self._begin(identity, change)
        partial.left_out[change.layout.table] = partial.left_out.get(change.layout.table, 0) + 1
        partial.last[change.partition] = change

    def leave_out_unread(self, change: Change, unread: UnreadEvent) -> None:
        """Count the next event of a partition, which cannot be read and goes with its transaction."""
        self.leave_out(change)
        self._partial[change.transaction or ""].unread.append(unread)

    def _begin(self, identity: str, change: Change) -> PartialTransaction:
        if identity not in self._end_ids:
            heappush(self._open, (change.lsn, identity))
        self._partial[identity] = PartialTransaction(change)
        return self._partial[identity]

    def add_end(self, end: End, partition: Partition) -> None:
        """Add an END of the partition."""
        identity = end.transaction
        counts = {table: count for table, count in end.counts.items() if count and self._is_wanted(table)}
        positions = {partition: Position(end.offset + 1, end.lsn)}
        pending = PendingEnd(end.lsn, identity, end.ts_ms, positions, counts, sum(counts.values()))
        if not self._ends or self._ends[-1].lsn < end.lsn:
            # The usual order. With many pending ENDs, insort would make a dozen comparisons.
            self._ends.append(pending)
        else:
            insort(self._ends, pending)
        self._end_ids[identity] = self._end_ids.get(identity, 0) + 1

    def pop_complete(self, up_to_lsn: float) -> list[Transaction]:
        """Remove and return the complete transactions, in order, and stop at the first incomplete transaction.

        ``up_to_lsn``: ENDs have been read up to this lsn. The lsn also limits the events between transactions. Raise
        DataError if a transaction has more events than the END counts.
        """
        complete: list[Transaction] = []
        for end in self._ends:
            self._drop_skipped(end.lsn)
            partial = self._partial.get(end.id)
            count = partial.count if partial else 0
            if count < end.total or (end.id.startswith(_UNTRANSACTED) and end.lsn > up_to_lsn):
                break
            if error := self._contradiction(end, count):
                if complete:
                    # The transactions before the error are applied first.
                    break
                raise error
            transaction = Transaction(end.id, end.lsn, end.ts_ms, positions=self._dropped | end.positions)
            self._dropped = {}
            if partial is not None:
                transaction.changes = partial.changes
                transaction.unread = partial.unread
                transaction.positions.update(partial.positions())
                del self._partial[end.id]
                self.pending_events -= len(partial.changes)
            if end.id in self._skipped:
                _log.warning("transaction %s (lsn %d) is left out, because --skip names it", end.id, end.lsn)
            if end.id.startswith(_UNTRANSACTED):
                transaction.id = None
            complete.append(transaction)
            self.popped_lsn = max(self.popped_lsn, end.lsn)
        self._remove_ends(len(complete))
        # After the complete transactions have gone, because most transactions come with their END.
        for identity, partial in self._partial.items():
            partial.spill_if_large(identity)
        return complete

    def _contradiction(self, end: PendingEnd, count: int) -> DataError | None:
        """Return the error if the events read so far contradict an END."""
        if (first := self._first_open()) is not None and first.lsn < end.lsn:
            error = DataError(
                f"transaction {first.transaction} has no END, but the END of a later transaction was read ({end.id}, "
                f"lsn {end.lsn}). Its first event: {first.where()}, lsn {first.lsn}. Kafka has lost the END, or "
                f"another program than the relay wrote the event. If the primary has the rows, run {REBUILD_COMMAND}"
            )
            error.skip = first.transaction
            return error
        if count > end.total and end.id not in self._skipped:
            error = DataError(
                f"transaction {end.id}: {count} events were read, but its END (lsn {end.lsn}) counts {end.total}"
            )
            error.skip = end.id
            return error
        return None

    def _first_open(self) -> Change | None:
        """Return the first event of the earliest transaction whose END has not been read."""
        while self._open:
            _, identity = self._open[0]
            if identity in self._partial and identity not in self._end_ids:
                return self._partial[identity].first
            heappop(self._open)
        return None

    def _drop_skipped(self, lsn: int) -> None:
        """Drop skipped transactions without an END from before ``lsn``."""
        while self._skipped and (first := self._first_open()) is not None and first.lsn < lsn:
            if first.transaction not in self._skipped:
                break
            assert first.transaction is not None
            self._dropped |= self._partial.pop(first.transaction).positions()
            _log.warning("transaction %s is left out, because --skip names it", first.transaction)

    def _remove_ends(self, count: int) -> None:
        for end in self._ends[:count]:
            self._end_ids[end.id] -= 1
            if not self._end_ids[end.id]:
                del self._end_ids[end.id]
        del self._ends[:count]

    def waiting_event(self) -> Change | None:
        """Return the first event of a transaction without an END, or an event that waits for an END of a greater lsn.

        Return None if every held event has an END.
        """
        if (first := self._first_open()) is not None:
            return first
        for end in reversed(self._ends):
            if end.id.startswith(_UNTRANSACTED):
                return self._partial[end.id].first
        return None

    def complete_skipped(self) -> bool:
        """Let the first END count only the read events. Return False if the transaction is not skipped."""
        end = self._ends[0]
        if end.id not in self._skipped:
            return False
        partial = self._partial.get(end.id)
        end.total = partial.count if partial else 0
        end.event_counts = {}
        return True

    @property
    def first_end(self) -> PendingEnd | None:
        """Return the END of the first incomplete transaction, or None if no END is pending."""
        return self._ends[0] if self._ends else None

    @property
    def pending_ends(self) -> int:
        """Return the number of ENDs held."""
        return len(self._ends)

    def oldest_transaction(self) -> str | None:
        """Return the id of the held transaction with the smallest lsn, or None if no event is held."""
        return min(self._partial, key=lambda i: self._partial[i].first.lsn, default=None)

    def missing_counts(self) -> dict[str, int]:
        """Return the number of events that the first incomplete transaction still lacks, by table."""
        if not self._ends:
            return {}
        end = self._ends[0]
        missing = dict(end.event_counts)
        if partial := self._partial.get(end.id):
            for table, count in (*partial.counts().items(), *partial.left_out.items()):
                missing[table] = missing.get(table, 0) - count
        return {table: count for table, count in missing.items() if count > 0}

    def drop_ends(self, up_to_lsn: int, transaction: str | None = None) -> dict[Partition, Position]:
        """Drop the leading ENDs up to an lsn, without events, or of ``transaction``.

        Return the positions after the dropped ENDs. Nothing is left to wait for, because the events go by key.
        """
        positions: dict[Partition, Position] = {}
        count = 0
        for end in self._ends:
            if end.lsn > up_to_lsn and end.total and end.id != transaction:
                break
            positions |= end.positions
            count += 1
        self._remove_ends(count)
        return positions

    def abandon_transactions(self) -> dict[Partition, Position]:
        """Drop all held events and the first END. Return the position after the END.

        The first END may never have all events. The later ENDs stay, because events may still come.
        """
        positions = self._ends[0].positions if self._ends else {}
        self._partial.clear()
        self._open.clear()
        self._remove_ends(1)
        self.pending_events = 0
        return positions
