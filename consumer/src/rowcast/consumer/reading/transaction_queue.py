"""The queue between the thread reading from Kafka and the thread writing to the replica."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from enum import Enum

from rowcast.consumer.events.transactions import Run, Transaction


class Signal(Enum):
    """What the reader reports between transactions."""

    LOADED = "every event up to the topics' ends is in the queue"
    FOLLOWING = "every event up to the topics' ends is in the queue, and everything goes by key"
    GAP = "events are lost for good, so everything that follows goes by key"
    DONE = "nothing follows"


class TransactionQueue:
    """Hand transactions and signals from one reader to one applier, in order.

    ``take`` returns everything put before an error, and then raises the error.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: deque[Transaction | Signal] = deque()
        self._error: BaseException | None = None
        self.event_count = 0
        """The number of events in the queue."""
        self.is_too_young = False
        """Whether the last ``take`` returned nothing because the next transaction is too young."""

    def put(self, items: Sequence[Transaction | Signal]) -> None:
        """Append items without waiting. The reader limits ``event_count`` by itself before it reads on."""
        with self._changed:
            self._items.extend(items)
            self.event_count += sum(len(i.changes) for i in items if isinstance(i, Transaction))
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Report that the reader has ended with an error."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def take(self, max_events: int, timeout: float, until_ms: float = math.inf) -> Run | Signal | None:
        """Return a signal, or a run of the next transactions. Return None if nothing comes in ``timeout`` seconds.

        A run has at least one transaction, and more up to ``max_events`` events. ``until_ms``: a transaction that was
        committed later stays in the queue, with everything after it. Raise the reader's error once the queue is empty.
        """
        self.is_too_young = False
        with self._changed:
            if not self._items and self._error is None:
                self._changed.wait(timeout)
            if not self._items:
                if self._error is not None:
                    raise self._error
                return None
            if _is_later(self._items[0], until_ms):
                self.is_too_young = True
                self._changed.wait(timeout)
                return None
            first = self._items.popleft()
            if isinstance(first, Signal):
                return first
            transactions = [first]
            events = len(first.changes)
            while self._items:
                item = self._items[0]
                if isinstance(item, Signal) or item.by_key != first.by_key or events + len(item.changes) > max_events:
                    break
                if _is_later(item, until_ms):
                    break
                transactions.append(item)
                events += len(item.changes)
                self._items.popleft()
            self.event_count -= events
            self._changed.notify_all()
            return Run(transactions)

    def wait_for_room(self, timeout: float) -> None:
        """Wait until something is taken, for ``timeout`` seconds at most. Return at once if the queue is empty."""
        with self._changed:
            if self._items:
                self._changed.wait(timeout)


def _is_later(item: Transaction | Signal, until_ms: float) -> bool:
    return isinstance(item, Transaction) and item.ts_ms > until_ms
