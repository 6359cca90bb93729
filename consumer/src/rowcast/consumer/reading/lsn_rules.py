"""Accept, skip or refuse a message by its lsn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rowcast.consumer.events.change import Change, key_of, transaction_of
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.rebuild_hint import REBUILD_COMMAND
from rowcast.consumer.reading.lsn_order import highest_plausible
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.transaction_lookup import was_sent_before
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import TransactionEvent

_NOT_THE_RELAY = "Another program than the relay wrote the message, or the relay has lost its count of lsns."


class LsnRules:
    """Judge the lsns of one reader's messages. ``positions``: the replica's."""

    def __init__(self, settings: Settings, positions: Mapping[Partition, Position]) -> None:
        self._settings = settings
        self._greatest = max((position.lsn for position in positions.values()), default=0)
        self._applied: dict[str, int] = {}
        for (topic, _), position in positions.items():
            self._applied[topic] = max(position.lsn, self._applied.get(topic, 0))

    @property
    def limit(self) -> int:
        """Return the highest lsn that a message may have now."""
        return highest_plausible(self._greatest)

    def allow(self, first: int, last: int) -> bool:
        """Return whether no lsn of a block is above ``limit``. ``first``, ``last``: the least and the greatest lsn.

        The limit of later messages depends on the first, because a new replica has no lsn to compare with.
        """
        return first <= self.limit and last <= highest_plausible(max(first, self._greatest))

    def note(self, lsn: int) -> None:
        """Note the lsn of a message that was accepted."""
        self._greatest = max(self._greatest, lsn)

    def leap(self, lsn: int) -> DataError:
        """Return the error for an lsn above ``limit``."""
        return DataError(f"the lsn {lsn} is far above the greatest lsn read before, {self._greatest}. {_NOT_THE_RELAY}")

    def is_late(self, stream: PartitionStream, change: Change, applied_lsn: int) -> bool:
        """Return whether an event with a smaller lsn than before was never read, and must not be skipped.

        Compaction may have removed the event where the relay had sent the event first. ``applied_lsn``: the lsn of the
        last applied END. Raise DataError for an event from before this END that was never read.
        """
        if stream.memory.has_read(change.lsn, event_mark(change)) is not False:
            return False
        if change.lsn > applied_lsn:
            return True
        raise DataError(
            f"the lsn {change.lsn} goes back: transactions up to lsn {applied_lsn} have been applied, and no event "
            f"with the same lsn, key and transaction was read before. {_NOT_THE_RELAY}"
        )

    def was_sent_to(self, others: Iterable[PartitionStream], change: Change, applied_lsn: int) -> bool:
        """Return whether an event was read or applied from another partition of the topic.

        ``others``: the rest of the read partitions. ``applied_lsn``: the lsn of the last applied END.
        """
        if any(other.memory.has_read(change.lsn, event_mark(change)) for other in others):
            return True
        # The transactions up to this END were complete, and the replica has applied a later event of the topic.
        return change.lsn <= min(applied_lsn, self._applied.get(change.partition[0], 0))

    def require_repetition(self, stream: PartitionStream, event: TransactionEvent, offset: int) -> None:
        """Raise DataError if a BEGIN or END with a smaller lsn than before was not read before."""
        known = stream.memory.has_read(event.lsn, record_mark(event))
        if known or (known is None and was_sent_before(self._settings, stream.partition, offset, event)):
            return
        raise DataError(
            f"the {event.status} of transaction {event.id} has the lsn {event.lsn}, which goes back: lsn {stream.lsn} "
            f"was read before, and this record was not. {_NOT_THE_RELAY} "
            f"If the source was set up again, run {REBUILD_COMMAND} --snapshot"
        )

    def require_plausible(self, event: TransactionEvent) -> None:
        """Raise DataError if the lsn of a BEGIN or END is above ``limit``."""
        if event.lsn > self.limit:
            raise self.leap(event.lsn)
        self.note(event.lsn)


def event_mark(change: Change) -> int:
    """Return what ``LsnMemory`` keeps of an event."""
    return hash((change.transaction, change.key))


def event_marks(changes: Sequence[Change]) -> Iterator[int]:
    """Return ``event_mark`` of each change."""
    return map(hash, zip(map(transaction_of, changes), map(key_of, changes), strict=True))


def record_mark(event: TransactionEvent) -> int:
    """Return what ``LsnMemory`` keeps of a BEGIN or END."""
    return hash((event.status, event.id.partition(":")[0]))


def record_marks(statuses: Iterable[str], transactions: Iterable[str]) -> Iterator[int]:
    """Return ``record_mark`` of each BEGIN or END. ``transactions``: the ids up to the colon."""
    return map(hash, zip(statuses, transactions, strict=True))
