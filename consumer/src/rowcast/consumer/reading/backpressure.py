"""Limit the events in the worker's memory, without ever blocking an incomplete transaction."""

from __future__ import annotations

from rowcast.consumer.reading.lsn_merge import LsnMerge
from rowcast.consumer.reading.partial_transaction import PendingEnd
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.subscription import Subscription
from rowcast.consumer.reading.transaction_assembler import TransactionAssembler


class Backpressure:
    """Pause partitions that run ahead of the first incomplete transaction, or by key of their topic's watermark.

    A transaction larger than the buffer is read whole. Partitions still needed for the transaction are never paused,
    and the buffer grows for the transaction alone.
    """

    def __init__(
        self, subscription: Subscription, assembler: TransactionAssembler, merge: LsnMerge, buffer_events: int
    ) -> None:
        self._subscription = subscription
        self._assembler = assembler
        self._merge = merge
        self._limit = buffer_events
        self._pausing = False

    def may_read(self, queued_events: int, excluded: PartitionStream | None) -> bool:
        """Pause and resume partitions. Return whether to read on.

        ``queued_events``: the events waiting to be applied. ``excluded``: a stream paused for another reason.
        """
        # While events go by key, the assembler holds no events, but ENDs may run ahead of the counted events.
        held = queued_events + max(self._assembler.pending_events, self._assembler.pending_ends)
        if held >= self._limit and queued_events:
            return False
        # Events held by the merge do not keep the reader from filling the queue, because the applier is never to wait.
        is_full = held >= self._limit or self._merge.held_events >= self._limit
        if not is_full and not self._pausing:
            return True
        self._pausing = max(held, self._merge.held_events) >= self._limit // 2
        first_end, oldest = self._assembler.first_end, self._assembler.oldest_transaction()
        for stream in self._subscription.streams.values():
            if stream is excluded:
                continue
            # The partition at the watermark is never paused.
            if not self._pausing or not (self._merge.is_ahead(stream) or _is_ahead(stream, first_end, oldest)):
                self._subscription.resume(stream)
            elif is_full:
                self._subscription.pause(stream)
        return True


def _is_ahead(stream: PartitionStream, first_end: PendingEnd | None, oldest: str | None) -> bool:
    """Return whether the stream has no more events for the first incomplete transaction.

    If no END is pending, the first incomplete transaction is ``oldest``, the transaction that began first.
    """
    if first_end is not None:
        return stream.lsn > first_end.lsn
    return stream.kind == "table" and oldest is not None and stream.transaction not in (None, oldest)
