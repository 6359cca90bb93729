"""Between the thread that reads from Kafka and the one that writes to the replica: bounded, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from enum import Enum

from rowcast.consumer.transactions import Run, Transaction


class Mark(Enum):
    """What the reader tells between transactions."""

    LOADED = "every event up to the topics' ends has been handed over"
    GAP = "events are gone for good: what follows is by key"
    DONE = "nothing follows"


class Handover:
    """One reader puts, one applier takes. What was put before an error is taken before it is raised."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: deque[Transaction | Mark] = deque()
        self._error: BaseException | None = None
        self.events = 0
        """Events put and not yet taken."""

    def put(self, items: Sequence[Transaction | Mark]) -> None:
        """Never waits; the reader looks at ``events`` before it reads on."""
        with self._changed:
            self._items.extend(items)
            self.events += sum(len(i.changes) for i in items if isinstance(i, Transaction))
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """The reader's last word."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def take(self, max_events: int, timeout: float) -> Run | Mark | None:
        """A mark, or the next transactions: one, and more as long as they have at most ``max_events`` together.

        None after ``timeout`` seconds without any. Raises what the reader failed with.
        """
        with self._changed:
            if not self._items and self._error is None:
                self._changed.wait(timeout)
            if not self._items:
                if self._error is not None:
                    raise self._error
                return None
            first = self._items.popleft()
            if isinstance(first, Mark):
                return first
            taken = [first]
            events = len(first.changes)
            while self._items:
                item = self._items[0]
                if isinstance(item, Mark) or item.by_key != first.by_key or events + len(item.changes) > max_events:
                    break
                taken.append(item)
                events += len(item.changes)
                self._items.popleft()
            self.events -= events
            self._changed.notify_all()
            return Run(taken)

    def wait_for_room(self, timeout: float) -> None:
        """Returns when something has been taken, at the latest after ``timeout`` seconds."""
        with self._changed:
            if self._items:
                self._changed.wait(timeout)
