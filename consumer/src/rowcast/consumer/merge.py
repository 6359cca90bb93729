"""Puts source transactions together again from the events of many partitions.

The relay publishes transactions one after another, never interleaved, so each partition holds a prefix of what is
applied, and ENDs come in the order in which transactions are to be applied. END says how many events each table has.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field

from rowcast.consumer.changes import Change, Partition
from rowcast.consumer.positions import Position
from rowcast.consumer.transactions import Transaction
from rowcast.shared.errors import DataError
from rowcast.shared.events import TransactionEvent


@dataclass(slots=True)
class _Gathered:
    """The events of one transaction so far."""

    first_lsn: int
    changes: list[Change] = field(default_factory=list)
    last: dict[Partition, Change] = field(default_factory=dict)
    """The last change from each partition."""


@dataclass(slots=True, order=True)
class Ending:
    """An END that was read, or an event that belongs to no transaction. ``wanted`` counts events by table."""

    lsn: int
    id: str = field(compare=False)
    ts_ms: int = field(compare=False)
    reach: dict[Partition, Position] = field(compare=False)
    wanted: dict[str, int] = field(compare=False)
    total: int = field(compare=False)


class Merge:
    """Events go in partition by partition, transactions come out whole and in order."""

    def __init__(self, wants: Callable[[str], bool]) -> None:
        self._wants = wants
        self._gathered: dict[str, _Gathered] = {}
        self._endings: list[Ending] = []
        self._loose = 0
        self.pending = 0
        """Events held."""

    def add(self, change: Change) -> None:
        """Takes the next event of a partition. Its lsn is greater than those before it there."""
        self.pending += 1
        identity = change.transaction
        if identity is None:
            # Between transactions: it is applied by itself, after every transaction of a smaller lsn.
            self._loose += 1
            identity = f"\0{self._loose}"
            insort(self._endings, Ending(change.lsn, identity, change.ts_ms, {}, {change.layout.table: 1}, 1))
        gathered = self._gathered.get(identity)
        if gathered is None:
            gathered = self._gathered[identity] = _Gathered(change.lsn)
        gathered.changes.append(change)
        gathered.last[change.partition] = change

    def end(self, event: TransactionEvent, partition: Partition, offset: int) -> None:
        """Takes an END."""
        identity = event.id.partition(":")[0]
        counts = event.data_collections or {}
        wanted = {table: count for table, count in counts.items() if count and self._wants(table)}
        reach = {partition: Position(offset + 1, event.lsn)}
        ending = Ending(event.lsn, identity, event.ts_ms, reach, wanted, sum(wanted.values()))
        if not self._endings or self._endings[-1].lsn < ending.lsn:
            # As they nearly always come. Of the many that wait, insort would compare a dozen.
            self._endings.append(ending)
        else:
            insort(self._endings, ending)

    def ready(self, up_to_lsn: float) -> list[Transaction]:
        """The transactions that are complete, in order, up to the first that is not; each is given out once.

        ``up_to_lsn``: how far ENDs have been read, which is as far as events between transactions may go. Raises
        DataError if a transaction has more events than its END counts.
        """
        done: list[Transaction] = []
        for ending in self._endings:
            gathered = self._gathered.get(ending.id)
            there = len(gathered.changes) if gathered else 0
            if there < ending.total or (ending.id.startswith("\0") and ending.lsn > up_to_lsn):
                break
            if there > ending.total:
                raise DataError(
                    f"transaction {ending.id}: {there} events were read, but its END (lsn {ending.lsn}) counts "
                    f"{ending.total}"
                )
            transaction = Transaction(ending.id, ending.lsn, ending.ts_ms, reach=ending.reach)
            if gathered is not None:
                transaction.changes = gathered.changes
                for partition, change in gathered.last.items():
                    transaction.reach[partition] = Position(change.offset + 1, change.lsn)
                del self._gathered[ending.id]
                self.pending -= there
            if ending.id.startswith("\0"):
                transaction.id = None
            done.append(transaction)
        del self._endings[: len(done)]
        return done

    @property
    def head(self) -> Ending | None:
        """The END that is waiting for events, if one is."""
        return self._endings[0] if self._endings else None

    @property
    def endings(self) -> int:
        """How many ENDs wait."""
        return len(self._endings)

    def open_transaction(self) -> str | None:
        """The transaction with the smallest lsn of those held."""
        return min(self._gathered, key=lambda i: self._gathered[i].first_lsn, default=None)

    def short(self) -> dict[str, int]:
        """How many events of each table the head still lacks."""
        if not self._endings:
            return {}
        head = self._endings[0]
        lacking = dict(head.wanted)
        for change in self._gathered[head.id].changes if head.id in self._gathered else ():
            lacking[change.layout.table] = lacking.get(change.layout.table, 0) - 1
        return {table: count for table, count in lacking.items() if count > 0}

    def forget(self, up_to_lsn: int, transaction: str | None = None) -> dict[Partition, Position]:
        """Drops the first ENDs that there is nothing to wait for: up to an lsn, of one transaction, or of no event.

        Gives how far their partition is done with.
        """
        reach: dict[Partition, Position] = {}
        count = 0
        for ending in self._endings:
            if ending.lsn > up_to_lsn and ending.total and ending.id != transaction:
                break
            reach |= ending.reach
            count += 1
        del self._endings[:count]
        return reach

    def give_up(self) -> tuple[list[Change], dict[Partition, Position]]:
        """Everything held, by lsn, without the first END, whose events will never all come.

        The other ENDs stay: events that they count may still come. Gives how far the END's partition is done with, too.
        """
        changes = [change for gathered in self._gathered.values() for change in gathered.changes]
        reach = self._endings[0].reach if self._endings else {}
        self._gathered.clear()
        del self._endings[:1]
        self.pending = 0
        return sorted(changes, key=lambda c: c.lsn), reach
