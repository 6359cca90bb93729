"""Assemble source transactions from the events of many partitions.

The relay publishes transactions one after another, never interleaved. Therefore each partition holds events in the
order of application, and ENDs come in the order of the transactions. An END counts the events of each table.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.events.transactions import Transaction
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import TransactionEvent

# Events outside any transaction get ids with this prefix, because no transaction id begins with NUL.
_UNTRANSACTED = "\0"

SPILL_EVENTS = 20_000
SPILL_BYTES = 16 * 1024 * 1024
"""An incomplete transaction with more events or bytes is moved to a temporary file."""


@dataclass(slots=True)
class _PartialTransaction:
    """The events of a transaction read so far."""

    first_lsn: int
    changes: list[Change] | SpilledChanges = field(default_factory=list)
    last: dict[Partition, Change] = field(default_factory=dict)
    """The last change from each partition."""
    measured: int = 0
    """The number of changes whose bytes are in ``size``."""
    size: int = 0

    def spill_if_large(self, transaction: str) -> None:
        """Move the changes to a temporary file if they take much memory."""
        changes = self.changes
        if isinstance(changes, SpilledChanges):
            return
        self.size += sum(len(c.key) + len(c.after or b"") for c in changes[self.measured :])
        self.measured = len(changes)
        if self.measured >= SPILL_EVENTS or self.size >= SPILL_BYTES:
            self.changes = SpilledChanges(transaction, changes)

    def counts(self) -> dict[str, int]:
        """Return the number of changes by table."""
        changes = self.changes
        return changes.counts if isinstance(changes, SpilledChanges) else Counter(c.layout.table for c in changes)


@dataclass(slots=True, order=True)
class PendingEnd:
    """An END, or the place of an event outside any transaction.

    ``event_counts`` counts the events by table, ``total`` all of them.
    """

    lsn: int
    id: str = field(compare=False)
    ts_ms: int = field(compare=False)
    positions: dict[Partition, Position] = field(compare=False)
    event_counts: dict[str, int] = field(compare=False)
    total: int = field(compare=False)


class TransactionAssembler:
    """Take events partition by partition, and return whole transactions in order.

    ``is_wanted``: whether the replica includes a table, given ``schema.table``.
    """

    def __init__(self, is_wanted: Callable[[str], bool]) -> None:
        self._is_wanted = is_wanted
        self._partial: dict[str, _PartialTransaction] = {}
        self._ends: list[PendingEnd] = []
        self._untransacted = 0
        self.pending_events = 0
        """The number of events held."""

    def add(self, change: Change) -> None:
        """Add the next event of a partition. The lsn must be greater than all earlier lsns of the partition."""
        self.pending_events += 1
        identity = change.transaction
        if identity is None:
            # An event between transactions is applied by itself, after every transaction of a smaller lsn.
            self._untransacted += 1
            identity = f"{_UNTRANSACTED}{self._untransacted}"
            insort(self._ends, PendingEnd(change.lsn, identity, change.ts_ms, {}, {change.layout.table: 1}, 1))
        partial = self._partial.get(identity)
        if partial is None:
            partial = self._partial[identity] = _PartialTransaction(change.lsn)
        partial.changes.append(change)
        partial.last[change.partition] = change

    def add_end(self, event: TransactionEvent, partition: Partition, offset: int) -> None:
        """Add an END."""
        identity = event.id.partition(":")[0]
        counts = event.data_collections or {}
        event_counts = {table: count for table, count in counts.items() if count and self._is_wanted(table)}
        positions = {partition: Position(offset + 1, event.lsn)}
        end = PendingEnd(event.lsn, identity, event.ts_ms, positions, event_counts, sum(event_counts.values()))
        if not self._ends or self._ends[-1].lsn < end.lsn:
            # The usual order. With many pending ENDs, insort would make a dozen comparisons.
            self._ends.append(end)
        else:
            insort(self._ends, end)

    def pop_complete(self, up_to_lsn: float) -> list[Transaction]:
        """Remove and return the complete transactions, in order, and stop at the first incomplete transaction.

        ``up_to_lsn``: ENDs have been read up to this lsn. It also limits the events between transactions. Raise
        DataError if a transaction has more events than its END counts.
        """
        complete: list[Transaction] = []
        for end in self._ends:
            partial = self._partial.get(end.id)
            count = len(partial.changes) if partial else 0
            if count < end.total or (end.id.startswith(_UNTRANSACTED) and end.lsn > up_to_lsn):
                break
            if count > end.total:
                raise DataError(
                    f"transaction {end.id}: {count} events were read, but its END (lsn {end.lsn}) counts {end.total}"
                )
            transaction = Transaction(end.id, end.lsn, end.ts_ms, positions=end.positions)
            if partial is not None:
                transaction.changes = partial.changes
                for partition, change in partial.last.items():
                    transaction.positions[partition] = Position(change.offset + 1, change.lsn)
                del self._partial[end.id]
                self.pending_events -= count
            if end.id.startswith(_UNTRANSACTED):
                transaction.id = None
            complete.append(transaction)
        del self._ends[: len(complete)]
        # After the complete transactions have gone, because most transactions come with their END.
        for identity, partial in self._partial.items():
            partial.spill_if_large(identity)
        return complete

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
        return min(self._partial, key=lambda i: self._partial[i].first_lsn, default=None)

    def missing_counts(self) -> dict[str, int]:
        """Return the number of events that the first incomplete transaction still lacks, by table."""
        if not self._ends:
            return {}
        end = self._ends[0]
        missing = dict(end.event_counts)
        for table, count in self._partial[end.id].counts().items() if end.id in self._partial else ():
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
        del self._ends[:count]
        return positions

    def abandon_transactions(self) -> dict[Partition, Position]:
        """Drop all held events and the first END. Return the position after the END.

        The first END will never have all events. The later ENDs stay, because events may still come.
        """
        positions = self._ends[0].positions if self._ends else {}
        self._partial.clear()
        del self._ends[:1]
        self.pending_events = 0
        return positions
