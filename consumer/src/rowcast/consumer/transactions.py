"""What the reader hands over and the applier applies: whole source transactions, and runs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rowcast.consumer.changes import Change, Partition
from rowcast.consumer.positions import Position


@dataclass(slots=True)
class Transaction:
    """The changes that belong together, and how far the partitions are when they are applied.

    ``by_key``: no transaction of the source but some events in the order of their partitions, read while the replica
    loads; its end is no state that the primary was in. ``lsn`` is that of END, or the greatest of the events.
    """

    id: str | None
    lsn: int
    ts_ms: int
    changes: list[Change] = field(default_factory=list)
    reach: dict[Partition, Position] = field(default_factory=dict)
    by_key: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Transactions that are applied together, in order; at least one."""

    transactions: Sequence[Transaction]

    @property
    def events(self) -> int:
        return sum(len(t.changes) for t in self.transactions)

    @property
    def by_key(self) -> bool:
        return self.transactions[-1].by_key

    @property
    def last(self) -> Transaction:
        """The one whose lsn, id and time the replica's state shows afterwards."""
        return max(self.transactions, key=lambda t: t.lsn)

    @property
    def count(self) -> int:
        """How many transactions of the source."""
        return sum(t.id is not None and not t.by_key for t in self.transactions)

    def reach(self) -> dict[Partition, Position]:
        """How far the partitions are when all of them are applied."""
        reached: dict[Partition, Position] = {}
        for transaction in self.transactions:
            reached.update(transaction.reach)
        return reached
