"""Judge the lsns of messages: sent twice, going back, or far too high.

lsns only grow in a partition, except when a relay repeats messages after a crash. A message with a smaller lsn was then
read before. A message with any other lsn was not written by the source's relay, or the relay has lost its count. Taken
for a repetition, the message would be skipped without notice. A message with a huge lsn would make all later messages
look like repetitions.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

# With ten million changes a second, a source needs 30 hours for this distance.
MAX_LEAP = 2**40
# No source reaches this lsn. The limit is for the first message of a new replica, without an lsn to compare with.
_MAX_LSN = 2**60


class LsnMemory:
    """Remember the last messages read from a partition, by lsn and a mark of the content.

    ``start``: the greatest lsn applied before. Nothing is known of messages up to this lsn. ``size``: the number of
    messages to remember, or up to twice as many.
    """

    def __init__(self, start: int, size: int) -> None:
        self._size = size
        self._lsns = array("q")
        self._marks = array("q")
        self._forgotten = start

    def remember(self, lsn: int, mark: int) -> None:
        """Add a message whose lsn is greater than all before. ``mark``: a hash of the identifying content."""
        self._lsns.append(lsn)
        self._marks.append(mark)
        self.bound()

    def add(self, lsns: Iterable[int], marks: Iterable[int]) -> None:
        """Add messages whose lsns grow, from above all before. ``marks``: as for ``remember``. Call ``bound`` later."""
        self._lsns.extend(lsns)
        self._marks.extend(marks)

    def bound(self) -> None:
        """Forget the oldest messages."""
        if len(self._lsns) > 2 * self._size:
            self._forgotten = self._lsns[-self._size - 1]
            del self._lsns[: -self._size]
            del self._marks[: -self._size]

    def insert(self, lsn: int, mark: int) -> None:
        """Add a message with a smaller lsn than an earlier message."""
        place = bisect_left(self._lsns, lsn)
        self._lsns.insert(place, lsn)
        self._marks.insert(place, mark)

    def forget(self, start: int) -> None:
        """Forget everything, because the partition is read again from a position with this lsn."""
        del self._lsns[:]
        del self._marks[:]
        self._forgotten = start

    def has_read(self, lsn: int, mark: int) -> bool | None:
        """Return whether the message was read before, or None if nothing is known of this lsn."""
        if lsn <= self._forgotten:
            return None
        place = bisect_left(self._lsns, lsn)
        return place < len(self._lsns) and self._lsns[place] == lsn and self._marks[place] == mark


def highest_plausible(greatest: int) -> int:
    """Return the highest lsn that a message may have if ``greatest`` is the greatest lsn of all partitions."""
    return greatest + MAX_LEAP if greatest else _MAX_LSN
