"""The load of a replica: events by key up to the topics' ends, and the cutover to transactions."""

from __future__ import annotations

import logging
import math
import time

from rowcast.consumer.reading.committed_transactions import CommittedTransactions
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.message_router import MessageRouter
from rowcast.consumer.reading.subscription import Subscription

_log = logging.getLogger("rowcast.worker")

# The END of the last transaction may have been deleted with old segments of the topic. Wait two seconds for the END.
_END_GRACE_S = 2.0


class Load:
    """Cut over at the topics' ends, and know when everything up to the cutover has been read.

    A partition may have been read far ahead of the rest, and an END may be visible before a counted event. Therefore
    the END at the cutover must first be *committed* in Kafka, together with every earlier event. Then all partitions
    are read up to the new ends.
    """

    def __init__(self, context: ReaderContext, subscription: Subscription, router: MessageRouter) -> None:
        self._settings = context.settings
        self._layouts = context.layouts
        self._subscription = subscription
        self._router = router
        self._cutover = router.cutover
        self._awaited_snapshots = False
        self._cutover_since = math.inf
        self._committed: CommittedTransactions | None = None
        self._cutover_is_committed = False

    @property
    def waits_for_commit(self) -> bool:
        """Return whether a consumer looks for the commit of the END at the cutover."""
        return self._committed is not None

    @property
    def may_never_end(self) -> bool:
        """Return whether the load waits for a relay, after everything up to the targets has been read."""
        if self._cutover.by_key:
            # Without a running relay, an incomplete snapshot never ends.
            return self._awaited_snapshots
        # The transaction at the cutover has not ended. Without a running relay, its END never comes.
        return time.monotonic() - self._cutover_since > _END_GRACE_S

    def is_complete(self) -> bool:
        """Cut over if the topics' ends are reached. Return whether everything up to the cutover has been read."""
        streams = self._subscription.streams.values()
        if self._cutover.by_key:
            if self.lacks_rows():
                return False
            if self._subscription.awaits_topics or not all(stream.target_reached for stream in streams):
                return False
            self._router.cut_over(list(self._subscription.streams_of_kind("table")))
            self._cutover_since = time.monotonic()
            self._cutover_is_committed = False
        if not self._cutover_is_committed:
            if not self._check_cutover_committed():
                return False
            self._cutover_is_committed = True
            self._subscription.set_targets()
        # A busy partition need not be read to its end, because later events belong to later transactions.
        return all(s.target_reached or (s.kind == "table" and self._cutover.is_behind(s)) for s in streams)

    def lacks_rows(self) -> bool:
        """Return whether the initial snapshot of a table is not complete in Kafka.

        The relay reports a complete snapshot on the schema topic, after Kafka has committed the last chunk. The
        partitions are then read up to the present ends, behind all chunks.
        """
        if tables := self._layouts.tables_lacking_rows():
            if not self._awaited_snapshots:
                _log.info("loading until the snapshots of %s are complete", ", ".join(tables))
            self._awaited_snapshots = True
        elif self._awaited_snapshots:
            self._awaited_snapshots = False
            self._subscription.set_targets()
        return bool(tables)

    def _check_cutover_committed(self) -> bool:
        """Return whether Kafka has committed the END at the cutover."""
        transaction_streams = list(self._subscription.streams_of_kind("transaction"))
        if not all(self._cutover.is_ended_in(stream) for stream in transaction_streams):
            waited_s = time.monotonic() - self._cutover_since
            at_end = all(s.at_end for s in self._subscription.streams.values())
            if not at_end or self._cutover.is_open or waited_s < _END_GRACE_S:
                return False
            # The END may have been deleted with old segments, long after the commit, and all earlier records too. If
            # records are left, the relay has sent the events and not yet the END.
            return all(self._subscription.first_offset(s) >= s.next_offset for s in transaction_streams)
        for stream in transaction_streams if self._cutover.lsn else ():
            if self._committed is None:
                first_offset = self._subscription.first_offset(stream)
                self._committed = CommittedTransactions(
                    self._settings, stream.partition, first_offset, stream.next_offset
                )
            if not self._committed.include(self._cutover.lsn):
                return False
        self.close()
        return True

    def close(self) -> None:
        """Close the consumer of committed transactions."""
        if self._committed is not None:
            self._committed.close()
            self._committed = None
