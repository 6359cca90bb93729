"""Find the part of the transaction topic that has the wanted transactions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rowcast.consumer.events.position import Partition
from rowcast.consumer.reading.topic_metadata import partition_ends, partitions_of
from rowcast.consumer.topics.messages_between import messages_between
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.kafka.messages import TransactionEvent, parse_transaction
from rowcast.shared.kafka.signature import SignatureCheck
from rowcast.shared.kafka.topic_names import transaction_topic


@dataclass(frozen=True, slots=True)
class WantedTransactions:
    """The wanted transactions: all with a time from ``since_ms`` to ``until_ms``, or a single one by its id.

    Times are those of END, in milliseconds since 1970.
    """

    since_ms: int = 0
    until_ms: int | None = None
    transaction: str | None = None

    def include(self, end: TransactionEvent) -> bool:
        """Return whether the transaction of an END is wanted."""
        if self.transaction is not None and self.transaction not in (end.id, end.id.partition(":")[0]):
            return False
        return self.since_ms <= end.ts_ms and (self.until_ms is None or end.ts_ms <= self.until_ms)


@dataclass(frozen=True, slots=True)
class Span:
    """The wanted part of the topics.

    ``offset`` and ``after_lsn``: the place after the last END before the first wanted transaction, and its lsn.
    ``since_ms``: Kafka's time of this END, or 0. ``last_lsn``: the lsn of the last wanted END. ``end``: the offset
    after the last wanted END.
    """

    offset: int
    after_lsn: int
    since_ms: int
    last_lsn: int
    end: int


def find_span(viewer: Any, settings: Settings, wanted: WantedTransactions) -> Span | None:
    """Return the part of the topics with the wanted transactions, or None without any.

    Raise ConfigurationError if the source has no transaction topic. Raise DataError and UnreachableError.
    """
    place: Partition = transaction_topic(settings.source), 0
    if not partitions_of(viewer, [place[0]]):
        raise ConfigurationError(
            f"topic {place[0]} does not exist. Start `rowcast relay`, and let the application write."
        )
    first, end = partition_ends(viewer, [place])[place]
    # The topic loses its oldest records by time, perhaps in the middle of a transaction.
    before = (first, 0, 0) if first == 0 else None
    found: tuple[int, int, int] | None = None
    last = 0, first
    for event, offset, published_ms in _ends(viewer, settings, place, first, end):
        if before is not None and wanted.include(event):
            found = found or before
            last = event.lsn, offset + 1
        before = offset + 1, event.lsn, published_ms
    return None if found is None else Span(*found, *last)


def _ends(
    viewer: Any, settings: Settings, place: Partition, first: int, end: int
) -> Iterator[tuple[TransactionEvent, int, int]]:
    signatures = SignatureCheck(settings.signature_keys)
    for message in messages_between(viewer, settings, {place: first}, {place: end}):
        signatures.check(place[0], message.key(), message.value(), message.headers())
        event = parse_transaction(message.value())
        if event.status == "END":
            yield event, message.offset(), int(message.timestamp()[1])
