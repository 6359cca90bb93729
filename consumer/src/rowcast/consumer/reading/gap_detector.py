"""Detect events counted by an END that will never arrive, because compaction has removed the records."""

from __future__ import annotations

import time

from rowcast.consumer.reading.partial_transaction import PendingEnd
from rowcast.consumer.reading.subscription import Subscription
from rowcast.consumer.reading.transaction_assembler import TransactionAssembler

# Kafka's servers may show an END before a counted event. Wait ten seconds for the event.
GRACE_S = 10.0
_CHECK_INTERVAL_S = 0.2
# Looking for partitions asks the server about all topics.
_DISCOVERY_INTERVAL_S = 1.0


class GapDetector:
    """Check whether the first incomplete transaction can still be completed."""

    def __init__(self, subscription: Subscription, assembler: TransactionAssembler) -> None:
        self._subscription = subscription
        self._assembler = assembler
        self._first_end: PendingEnd | None = None
        self._since = 0.0
        self._next_check = 0.0
        self._next_discovery = 0.0

    def find_gap(self) -> str | None:
        """Return the reason if events are lost for good, else None.

        Events are lost if all partitions of the table have moved past END, because lsns only grow. Events are also lost
        if all partitions have been at the end for ``GRACE_S``. All partitions includes partitions added to the topic
        meanwhile. Therefore new partitions are looked for as soon as the known partitions cannot complete the
        transaction.
        """
        now = time.monotonic()
        first_end = self._assembler.first_end
        if first_end is not self._first_end:
            self._first_end, self._since = first_end, now
            self._next_check = self._next_discovery = now + _CHECK_INTERVAL_S
        if first_end is None or now < self._next_check:
            return None
        self._next_check = now + _CHECK_INTERVAL_S
        missing = self._assembler.missing_counts()
        if any(self._is_exhausted(table, first_end, grace_is_over=True) for table in missing):
            if self._discovers(now):
                self._since = now
            grace_is_over = now - self._since > GRACE_S
            for table, count in missing.items():
                if self._is_exhausted(table, first_end, grace_is_over=grace_is_over):
                    return (
                        f"transaction {first_end.id} lacks {count} events of table {table}, which its topic no longer "
                        "holds"
                    )
        return None

    def _is_exhausted(self, table: str, first_end: PendingEnd, *, grace_is_over: bool) -> bool:
        """Return whether no known partition of the table can hold an event that END counts."""
        streams = self._subscription.streams_of_table(table)
        if not streams:
            return grace_is_over
        return all(s.lsn > first_end.lsn or (grace_is_over and s.at_end) for s in streams)

    def _discovers(self, now: float) -> bool:
        """Look for new partitions if a look is due. Return whether a partition was found."""
        if now < self._next_discovery:
            return False
        self._next_discovery = now + _DISCOVERY_INTERVAL_S
        known = len(self._subscription.streams)
        self._subscription.discover(at_once=True)
        return len(self._subscription.streams) > known
