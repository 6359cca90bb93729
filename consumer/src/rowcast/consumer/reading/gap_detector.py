"""Detect events counted by an END that will never arrive, because compaction has removed the records."""

from __future__ import annotations

import time

from rowcast.consumer.reading.subscription import Subscription
from rowcast.consumer.reading.transaction_assembler import PendingEnd, TransactionAssembler

# Kafka's servers may show an END before a counted event. Wait ten seconds for the event.
GRACE_S = 10.0
_CHECK_INTERVAL_S = 0.2


class GapDetector:
    """Check whether the first incomplete transaction can still be completed."""

    def __init__(self, subscription: Subscription, assembler: TransactionAssembler) -> None:
        self._subscription = subscription
        self._assembler = assembler
        self._first_end: PendingEnd | None = None
        self._since = 0.0
        self._next_check = 0.0

    def find_gap(self) -> str | None:
        """Return the reason if events are lost for good, else None.

        Events are lost if all partitions of the table have moved past END, because lsns only grow. Events are also lost
        if all partitions have been at the end for ``GRACE_S``.
        """
        now = time.monotonic()
        first_end = self._assembler.first_end
        if first_end is not self._first_end:
            self._first_end, self._since = first_end, now
            self._next_check = now + _CHECK_INTERVAL_S
        if first_end is None or now < self._next_check:
            return None
        self._next_check = now + _CHECK_INTERVAL_S
        grace_is_over = now - self._since > GRACE_S
        for table, missing in self._assembler.missing_counts().items():
            streams = self._subscription.streams_of_table(table)
            if not streams and not grace_is_over:
                continue
            if all(s.lsn > first_end.lsn or (grace_is_over and s.at_end) for s in streams):
                return (
                    f"transaction {first_end.id} lacks {missing} events of table {table}, which its topic no longer "
                    "holds"
                )
        return None
