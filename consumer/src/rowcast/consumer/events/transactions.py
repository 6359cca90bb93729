"""Whole source transactions on the way from the reader to the applier, and runs of transactions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rowcast.consumer.events.change import Change, layout_of
from rowcast.consumer.events.dead_letter import LetterEvent, UnreadEvent
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.events.spilled_changes import SpilledChanges


@dataclass(slots=True)
class Transaction:
    """The changes of one source transaction, and the positions of the partitions once the changes are applied.

    ``by_key``: the changes are not a source transaction but events in the order of the partitions, read while the
    replica loads. After the changes, the replica is not in a state of the primary. ``lsn`` is the lsn of END, or the
    greatest lsn of the events if ``by_key`` is set. ``unread``: events that cannot be read, which are not among the
    changes. ``letters``: events that have gone to the dead letter topic, to be recorded with the positions.
    ``settled``: letters whose record is removed, because the changes apply them. ``known_ms``: the time before which
    the replica then knows all deletes, by partition, if a group of workers reads the partitions.
    """

    id: str | None
    lsn: int
    ts_ms: int
    changes: list[Change] | SpilledChanges = field(default_factory=list)
    positions: dict[Partition, Position] = field(default_factory=dict)
    by_key: bool = False
    unread: Sequence[UnreadEvent] = ()
    letters: Sequence[LetterEvent] = ()
    settled: Sequence[LetterEvent] = ()
    known_ms: Mapping[Partition, int] = field(default_factory=dict)

    def layouts(self) -> set[RowLayout]:
        """Return the layouts of all changes."""
        changes = self.changes
        return set(changes.layouts) if isinstance(changes, SpilledChanges) else set(map(layout_of, changes))


@dataclass(frozen=True, slots=True)
class Run:
    """Transactions to apply together, in order."""

    transactions: Sequence[Transaction]

    @property
    def event_count(self) -> int:
        """Return the number of changes in all transactions."""
        return sum(len(t.changes) for t in self.transactions)

    @property
    def by_key(self) -> bool:
        """Return whether the changes were read while the replica loads."""
        return self.transactions[-1].by_key

    @property
    def last(self) -> Transaction:
        """Return the transaction with the greatest lsn. The replica's state shows its lsn, id and time afterwards."""
        return max(self.transactions, key=lambda t: t.lsn)

    @property
    def transaction_count(self) -> int:
        """Return the number of source transactions, without the changes that go by key."""
        return sum(t.id is not None and not t.by_key for t in self.transactions)

    def positions(self) -> dict[Partition, Position]:
        """Return the positions of the partitions once all transactions are applied."""
        positions: dict[Partition, Position] = {}
        for transaction in self.transactions:
            positions.update(transaction.positions)
        return positions

    def known_ms(self) -> dict[Partition, int]:
        """Return the time before which the replica knows all deletes once all transactions are applied."""
        known: dict[Partition, int] = {}
        for transaction in self.transactions:
            known.update(transaction.known_ms)
        return known
