"""The cutover from events by key to whole transactions.

While the replica loads, all events go *by key*. At the topics' ends the router cuts over. The cutover lsn is the
greatest lsn that was read by then. Events up to the cutover lsn, and the rest of the transaction at the cutover, still
go by key.
"""

from __future__ import annotations

from collections.abc import Collection

from rowcast.consumer.reading.partition_stream import PartitionStream


class Cutover:
    """Know whether events go by key.

    ``last_transaction``: the id of the transaction last applied. ``abandoned_lsn``: ENDs up to this lsn have been
    dropped, and the events may still come.
    """

    def __init__(self, last_transaction: str | None, *, by_key: bool, abandoned_lsn: int = 0) -> None:
        self.by_key = by_key
        self.is_under_way = False
        """Set from ``begin`` to ``finish``. Meanwhile, no transaction is complete."""
        self.lsn = 0
        """The greatest lsn that was read by key, or of an END that was dropped. 0 without either."""
        self.transaction: str | None = None
        self.begun_transaction: str | None = None
        """The id of the BEGIN that was read last, if its END was not."""
        self._last_transaction = last_transaction
        self._abandoned_lsn = abandoned_lsn

    def begin(self, table_streams: Collection[PartitionStream]) -> None:
        """Set the cutover at the greatest lsn that was read."""
        self.by_key = False
        self.is_under_way = True
        for stream in table_streams:
            # Compaction may have removed the first of two messages that were sent twice.
            stream.memory.forget(stream.lsn)
        furthest = max(table_streams, key=lambda stream: stream.lsn, default=None)
        if furthest is not None:
            self.lsn = furthest.lsn
            # The stream has no transaction if an earlier run of the worker has read it.
            self.transaction = furthest.transaction or self._last_transaction
        if self._abandoned_lsn > self.lsn:
            # Without END, the events of a transaction could not be assembled.
            self.lsn, self.transaction = self._abandoned_lsn, None

    def abandon(self, lsn: int) -> None:
        """Note a dropped END. The events of the transaction may still come, and go by key then."""
        self._abandoned_lsn = max(self._abandoned_lsn, lsn)

    def finish(self) -> None:
        """Return transactions from now on. All events up to the cutover have been returned."""
        self.is_under_way = False

    def includes(self, lsn: int, transaction: str | None) -> bool:
        """Return whether an event or END goes by key."""
        return self.by_key or lsn <= self.lsn or (transaction is not None and transaction == self.transaction)

    def applies_repetitions(self, lsn: int) -> bool:
        """Return whether an event with a smaller lsn than before goes by key."""
        return self.by_key or (self.is_under_way and lsn <= self.lsn)

    def is_ended_in(self, transaction_stream: PartitionStream) -> bool:
        """Return whether the transaction at the cutover has ended. The replica is then where the primary was."""
        return transaction_stream.lsn >= self.lsn

    def is_behind(self, stream: PartitionStream) -> bool:
        """Return whether a table's stream has no more events of the transactions up to the cutover."""
        return stream.lsn > self.lsn and (stream.transaction is None or stream.transaction != self.transaction)

    @property
    def is_open(self) -> bool:
        """Return whether the BEGIN at the cutover was read.

        An END is sure to come then. Without a BEGIN, the END may have been deleted already.
        """
        return self.begun_transaction is not None and self.begun_transaction == self.transaction
