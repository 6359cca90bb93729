"""Events that an END counts and that will never come, because compaction has removed them."""

from __future__ import annotations

import time

from rowcast.consumer.merge import Ending, Merge
from rowcast.consumer.subscription import Subscription

# Servers of Kafka may show an END before an event that it counts: this long the event may take.
GRACE_S = 10.0
_LOOK_S = 0.2


class GapWatch:
    """Looks at the transaction that everything waits for."""

    def __init__(self, subscription: Subscription, merge: Merge) -> None:
        self._subscription = subscription
        self._merge = merge
        self._head: Ending | None = None
        self._since = 0.0
        self._next_look = 0.0

    def found(self) -> str | None:
        """The reason, if events are gone for good.

        They are once all partitions of their table have moved past END (lsns only grow), or have been at their ends for
        a while.
        """
        now = time.monotonic()
        head = self._merge.head
        if head is not self._head:
            self._head, self._since = head, now
            self._next_look = now + _LOOK_S
        if head is None or now < self._next_look:
            return None
        self._next_look = now + _LOOK_S
        waited = now - self._since > GRACE_S
        for table, lacking in self._merge.short().items():
            streams = self._subscription.of_table(table)
            if not streams and not waited:
                continue
            if all(s.lsn > head.lsn or (waited and s.at_end) for s in streams):
                return f"transaction {head.id} lacks {lacking} events of table {table}, which its topic no longer holds"
        return None
