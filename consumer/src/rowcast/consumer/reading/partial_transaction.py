"""Hold the read parts of a transaction: the events and the END."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rowcast.consumer.events.change import Change, layout_of
from rowcast.consumer.events.dead_letter import UnreadEvent
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.spilled_changes import SpilledChanges

SPILL_EVENTS = 20_000
SPILL_BYTES = 16 * 1024 * 1024
"""An incomplete transaction with more events or bytes is moved to a temporary file."""
MIN_MEASURED = 16
"""The number of changes from which the bytes of a transaction are measured. Most transactions have fewer."""


@dataclass(slots=True)
class PartialTransaction:
    """The events of a transaction read so far. ``left_out``: the number of events of each table not to be applied."""

    first: Change
    changes: list[Change] | SpilledChanges = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    unread: list[UnreadEvent] = field(default_factory=list)
    """The events left out because they cannot be read."""
    last: dict[Partition, Change] = field(default_factory=dict)
    """The last change from each partition."""
    measured: int = 0
    """The number of changes whose bytes are in ``size``."""
    size: int = 0

    def add(self, changes: Sequence[Change]) -> None:
        """Add the next events of a partition."""
        self.changes.extend(changes)
        self.last[changes[-1].partition] = changes[-1]

    def spill_if_large(self, transaction: str) -> None:
        """Move the changes to a temporary file if they take much memory."""
        changes = self.changes
        if isinstance(changes, SpilledChanges) or len(changes) < MIN_MEASURED:
            return
        self.size += sum(len(c.key) + len(c.after or b"") for c in changes[self.measured :])
        self.measured = len(changes)
        if self.measured >= SPILL_EVENTS or self.size >= SPILL_BYTES:
            self.changes = SpilledChanges(transaction, changes)

    def counts(self) -> dict[str, int]:
        """Return the number of changes by table."""
        if isinstance(self.changes, SpilledChanges):
            return self.changes.counts
        return Counter(layout.table for layout in map(layout_of, self.changes))

    @property
    def count(self) -> int:
        """Return the number of events, with the events left out."""
        return len(self.changes) + sum(self.left_out.values())

    def positions(self) -> dict[Partition, Position]:
        """Return the positions after the events."""
        return {partition: Position(change.offset + 1, change.lsn) for partition, change in self.last.items()}


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
