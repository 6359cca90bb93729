"""What was read of each topic, and applied, before the next message."""

from __future__ import annotations

from collections.abc import Sequence

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.cutover import Cutover
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.transaction_assembler import TransactionAssembler


class TopicHistory:
    """Know the streams of each topic, and the greatest lsns."""

    def __init__(self, layouts: RowLayouts, cutover: Cutover, assembler: TransactionAssembler) -> None:
        self._notes = layouts.notes
        self._cutover = cutover
        self._assembler = assembler
        self._streams: dict[str, list[PartitionStream]] = {}
        self.greatest_lsn = 0
        """The greatest lsn that was read from the tables' topics."""
        self.applied_end_lsn = 0
        """The lsn of the last END that had been applied before reading began."""
        self.stale_partition: Partition | None = None
        """Set to a partition that has an event from before ``applied_end_lsn`` which was not applied. Its table is new
        to the replica, so the transaction of the event can never be assembled."""

    def add(self, stream: PartitionStream) -> None:
        """Take note that messages of the stream are read."""
        known = self._streams.setdefault(stream.partition[0], [])
        if stream not in known:
            known.append(stream)

    def note(self, stream: PartitionStream, first: Change, last: Change) -> None:
        """Take note of the events read from a stream. ``last`` has the greatest lsn."""
        if first.lsn < self.applied_end_lsn and not self._cutover.by_key:
            self.stale_partition = stream.partition
        stream.lsn, stream.transaction = last.lsn, last.transaction
        stream.memory.bound()
        self.greatest_lsn = max(self.greatest_lsn, last.lsn)

    def forget_applied(self) -> None:
        """Forget what was applied, because all events go by key again."""
        self.stale_partition, self.applied_end_lsn = None, 0

    def others(self, stream: PartitionStream) -> Sequence[PartitionStream]:
        """Return the other streams of the stream's topic."""
        return [other for other in self._streams[stream.partition[0]] if other is not stream]

    def first_lsn(self, stream: PartitionStream) -> int:
        """Return the first lsn of a stream's events that count.

        Earlier events belong to timelines that have ended, or a later snapshot has published their rows again.
        """
        return max(self._notes.first_lsn, stream.first_lsn)

    @property
    def applied_lsn(self) -> int:
        """Return the lsn of the last END whose transaction was returned or had been applied before."""
        return max(self.applied_end_lsn, self._assembler.popped_lsn)

    def lsn_elsewhere(self, stream: PartitionStream) -> int:
        """Return the greatest lsn up to which the stream's events may be in another partition or applied already."""
        if self._cutover.by_key:
            return 0
        return max((self.applied_lsn, *(other.lsn for other in self.others(stream))))

    def floor(self, stream: PartitionStream) -> int:
        """Return the greatest lsn that needs a closer look. A usual event has a greater lsn."""
        return max(stream.lsn, self.first_lsn(stream) - 1, self.lsn_elsewhere(stream))
