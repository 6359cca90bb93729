"""Assemble the transactions of Debezium's topics by BEGIN and END.

An END counts the events of each table. The ENDs are in the order of commits. The events of a transaction are together
in each partition, except for repetitions by a connector after a crash. A repeated transaction has an END of the same
id. The events of an applied transaction are left out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from rowcast.consumer.debezium.event_reader import TableEvent
from rowcast.consumer.debezium.transaction_record import Begin, End
from rowcast.consumer.events.change import Change, lsn_of
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.events.transactions import Transaction

SPILL_EVENTS = 20_000
_REMEMBERED = 200_000


@dataclass(slots=True)
class _Open:
    """A transaction whose END has not been reached. ``first``: its first offset in each partition.

    ``last``: the place and order of the last event in each partition. ``count``: the events read, also those applied by
    key. ``is_straddling``: some events were applied by key, while the replica was loading.
    """

    changes: list[Change] | SpilledChanges = field(default_factory=list)
    first: dict[Partition, int] = field(default_factory=dict)
    last: dict[Partition, tuple[int, int, int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    is_straddling: bool = False


@dataclass(slots=True)
class _PendingEnd:
    end: End
    wanted: dict[str, int]
    next_offset: int


class Assembly:
    """Take events and ENDs, and return whole transactions.

    ``is_wanted``: whether the replica includes a table. ``number``: gives each change its lsn.
    """

    def __init__(self, is_wanted: Callable[[str], bool], number: Callable[[], int]) -> None:
        self._is_wanted = is_wanted
        self._number = number
        self._open: dict[str, _Open] = {}
        self._ends: deque[_PendingEnd] = deque()
        self._applied: OrderedDict[str, str] = OrderedDict()
        """The transactions that were applied or left out lately, and the names of their ENDs."""
        self._waiting: list[tuple[Change, set[str]]] = []
        """Events outside transactions, and the open transactions with earlier events in the partition."""
        self._begun: str | None = None
        self._miscounted: set[str] = set()
        self.held_events = 0

    def note_applied(self, end: End) -> None:
        """Note an applied transaction by its END."""
        self._forget_begin(end)
        self._applied[end.identity] = end.name
        self._applied.move_to_end(end.identity)
        if (found := self._open.pop(end.identity, None)) is not None:
            # A repetition of the transaction's events, read before the END.
            self.held_events -= len(found.changes)
        if len(self._applied) > _REMEMBERED:
            self._applied.popitem(last=False)

    def count(self, event: TableEvent) -> bool:
        """Count an event that goes by key. Return False for a repeated event."""
        transaction = self._take(event)
        if transaction is not None:
            transaction.is_straddling = True
            if len(self._open) > _REMEMBERED:
                # Kafka may have deleted the ENDs of old transactions.
                del self._open[next(iter(self._open))]
        return transaction is not None

    def add(self, event: TableEvent) -> bool:
        """Take the next event of a partition. Return True if the caller is to apply the event by key.

        The rest of a transaction goes by key if its beginning did.
        """
        change = event.change
        if change.transaction is None:
            before = {name for name, one in self._open.items() if change.partition in one.first}
            if not before:
                return True
            self._waiting.append((change, before))
            self.held_events += 1
            return False
        transaction = self._take(event)
        if transaction is None or transaction.is_straddling:
            return transaction is not None
        number = event.place.statement if event.place else event.order
        transaction.changes.append(change._replace(lsn=number))
        self.held_events += 1
        if isinstance(transaction.changes, list) and len(transaction.changes) >= SPILL_EVENTS:
            transaction.changes = SpilledChanges(change.transaction, transaction.changes)
        return False

    def leave_out(self, event: TableEvent) -> None:
        """Count an event of a transaction that has no effect on the replica."""
        self._take(event)

    def _take(self, event: TableEvent) -> _Open | None:
        """Count the event in its transaction. Return None for a repeated event."""
        change, identity = event.change, event.change.transaction
        assert identity is not None
        if identity in self._applied:
            return None
        transaction = self._open.get(identity)
        if transaction is None:
            transaction = self._open[identity] = _Open()
        place = (*(event.place.in_transaction if event.place else (0, 0)), event.order)
        if place <= transaction.last.get(change.partition, (-1, 0, 0)):
            return None
        transaction.last[change.partition] = place
        transaction.first.setdefault(change.partition, change.offset)
        table = change.layout.table
        transaction.counts[table] = transaction.counts.get(table, 0) + 1
        return transaction

    def add_begin(self, begin: Begin) -> None:
        """Add a BEGIN. A second BEGIN without an END between: the connector began again in the transaction.

        Connectors before Debezium's issue 633 then count the events from 1 again, and END counts too few. The missing
        events are unknown, so all events in Kafka must be read.
        """
        if begin.identity == self._begun:
            self._miscounted.add(begin.identity)
        self._begun = begin.identity

    def _forget_begin(self, end: End) -> None:
        if self._begun == end.identity:
            self._begun = None

    def add_end(self, end: End, offset: int) -> None:
        """Add an END. A repeated END counts nothing."""
        self._forget_begin(end)
        is_repeated = self._applied.get(end.identity) == end.name or any(p.end.name == end.name for p in self._ends)
        wanted = {table: n for table, n in end.counts.items() if n and self._is_wanted(table) and not is_repeated}
        if not is_repeated:
            # The database may use the number of a transaction again after a long time.
            self._applied.pop(end.identity, None)
        self._ends.append(_PendingEnd(end, wanted, offset + 1))

    @property
    def first_end(self) -> End | None:
        """Return the END of the first incomplete transaction."""
        return self._ends[0].end if self._ends else None

    def missing(self) -> dict[str, int]:
        """Return the number of unread events of the first END, by table."""
        if not self._ends:
            return {}
        head = self._ends[0]
        known = self._open.get(head.end.identity, _Open()).counts
        if head.end.identity in self._miscounted:
            return dict.fromkeys(head.wanted, 1)
        return {table: n - known.get(table, 0) for table, n in head.wanted.items() if n > known.get(table, 0)}

    @property
    def has_straddling(self) -> bool:
        """Return whether a transaction has events that were applied by key, and is not complete."""
        return any(one.is_straddling for one in self._open.values())

    def straddle_begun(self) -> None:
        """Let the transaction of the last BEGIN go by key, because an earlier worker may have applied a part of it."""
        if self._begun is not None:
            self._open.setdefault(self._begun, _Open(is_straddling=True))

    def drop_straddling(self) -> list[str]:
        """Forget the transactions with events applied by key. Return the ids.

        The transaction of the last BEGIN stays, because its END is sure to come.
        """
        names = [name for name, one in self._open.items() if one.is_straddling and name != self._begun]
        for name in names:
            del self._open[name]
        return names

    @property
    def pending_ends(self) -> int:
        """Return the number of ENDs held."""
        return len(self._ends)

    def give_up_missing(self, ends: int) -> None:
        """Let the first ENDs count only the events already read. No event of these transactions may follow."""
        for pending in islice(self._ends, ends):
            pending.wanted = {}
            self._miscounted.discard(pending.end.identity)

    def pop(self, transactions: Partition) -> Iterator[Transaction]:
        """Remove and yield the complete transactions in the order of their ENDs.

        ``transactions``: the partition of the ENDs. The positions of the tables' partitions are not included.
        """
        yield from self._pop_waiting()
        while self._ends and not self.missing():
            head = self._ends.popleft()
            found = self._open.pop(head.end.identity, None)
            self.note_applied(head.end)
            number = self._number()
            done = Transaction(head.end.name, number, head.end.ts_ms)
            done.positions = {transactions: Position(head.next_offset, number)}
            if found is not None:
                self.held_events -= len(found.changes)
                done.changes = self._in_order(found.changes)
            yield done
            yield from self._pop_waiting()

    def _in_order(self, changes: list[Change] | SpilledChanges) -> list[Change] | SpilledChanges:
        if isinstance(changes, SpilledChanges):
            return changes
        # The sort keeps the order of the events at one place of the log, because all are in one partition.
        changes.sort(key=lsn_of)
        return [change._replace(lsn=self._number()) for change in changes]

    def _pop_waiting(self) -> Iterator[Transaction]:
        while self._waiting and not any(identity in self._open for identity in self._waiting[0][1]):
            change, _ = self._waiting.pop(0)
            self.held_events -= 1
            number = self._number()
            yield Transaction(None, number, change.ts_ms, [change._replace(lsn=number)])

    @property
    def first_end_offset(self) -> int | None:
        """Return the offset of the first END of an incomplete transaction, or None."""
        return self._ends[0].next_offset - 1 if self._ends else None

    def first_held(self, partition: Partition) -> int | None:
        """Return the first offset in a partition that must be read again after a restart."""
        held = (one.first for one in self._open.values() if not one.is_straddling)
        offsets = [first[partition] for first in held if partition in first]
        offsets += [change.offset for change, _ in self._waiting if change.partition == partition]
        return min(offsets, default=None)
