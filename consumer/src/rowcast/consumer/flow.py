"""Bounds what the worker holds in memory, without ever stopping what it waits for."""

from __future__ import annotations

from rowcast.consumer.merge import Ending, Merge
from rowcast.consumer.streams import Stream
from rowcast.consumer.subscription import Subscription


class Flow:
    """Pauses partitions that run ahead of the transaction that everything waits for.

    A transaction larger than the buffer gets in whole: the partitions that it still needs are never paused, so for it
    alone the buffer grows.
    """

    def __init__(self, subscription: Subscription, merge: Merge, buffer_events: int) -> None:
        self._subscription = subscription
        self._merge = merge
        self._limit = buffer_events
        self._pausing = False

    def may_read(self, handed_over: int, kept_out: Stream | None) -> bool:
        """Whether to read on, given how many events wait to be applied; pauses and resumes partitions.

        ``kept_out`` stays paused for another reason.
        """
        # By key nothing is pending, but ENDs may run ahead of the events that they count.
        held = handed_over + max(self._merge.pending, self._merge.endings)
        if held >= self._limit and handed_over:
            return False
        if held < self._limit and not self._pausing:
            return True
        self._pausing = held >= self._limit // 2
        head, first = self._merge.head, self._merge.open_transaction()
        for stream in self._subscription.streams.values():
            if stream is kept_out:
                continue
            if not self._pausing or not _is_ahead(stream, head, first):
                self._subscription.resume(stream)
            elif held >= self._limit:
                self._subscription.pause(stream)
        return True


def _is_ahead(stream: Stream, head: Ending | None, first: str | None) -> bool:
    """Whether it has given all that the transaction waited for can have from it.

    Without an END that is the one that began first.
    """
    if head is not None:
        return stream.lsn > head.lsn
    return stream.kind == "table" and first is not None and stream.transaction not in (None, first)
