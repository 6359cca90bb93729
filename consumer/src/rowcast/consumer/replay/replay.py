"""Write the wanted transactions of the topics to an output, whole and in the order of their commits.

transaction topic ──▶ span ──▶ all partitions in the order of lsns ──▶ whole transactions ──▶ output

A transaction is written after its END is read and all events are counted.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rowcast.consumer.events.position import Partition
from rowcast.consumer.reading.topic_metadata import new_viewer, offsets_since
from rowcast.consumer.replay.lsn_order import LsnOrder, OrderedMessage
from rowcast.consumer.replay.span import Span, WantedTransactions, find_span
from rowcast.consumer.replay.stored_message import StoredMessage, StoredMessages, stored
from rowcast.consumer.topics.selection import Selection
from rowcast.consumer.topics.source_topics import SourceTopics
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import TransactionEvent
from rowcast.shared.kafka.topic_names import transaction_topic

_log = logging.getLogger("rowcast.replay")

# The clocks of relays that took turns may differ.
_CLOCKS_MS = 600_000


@dataclass(slots=True)
class WholeTransaction:
    """A transaction to write. ``begin`` and ``end`` are its BEGIN and END, ``end_event`` is the parsed END.

    ``counts``: the number of messages by ``schema.table``. ``is_snapshot``: the transaction is a chunk of a snapshot,
    whose BEGIN and END follow the events and count none.
    """

    end: StoredMessage
    end_event: TransactionEvent
    begin: StoredMessage | None = None
    messages: StoredMessages = field(default_factory=StoredMessages)
    counts: Counter[str] = field(default_factory=Counter)
    is_snapshot: bool = False


class Output(Protocol):
    """Where transactions are written to."""

    def write(self, transaction: WholeTransaction) -> None:
        """Write a transaction, whole."""


NewOutput = Callable[[SourceTopics, Any], AbstractContextManager[Output]]


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The numbers of written transactions and events, and the transactions that lacked events."""

    transactions: int
    events: int
    lacking: int


def replay(
    settings: Settings,
    selection: Selection,
    wanted: WantedTransactions,
    new_output: NewOutput,
    *,
    allow_gaps: bool,
    stop: threading.Event,
) -> ReplayResult:
    """Write the wanted transactions. ``selection``: the wanted tables and the wanted key.

    ``new_output``: called with the topics of the wanted tables and with Kafka's client, returns a context manager of an
    ``Output``. ``allow_gaps``: write also a transaction of which compaction has removed events.

    Raise ConfigurationError, UnreachableError, and DataError for such a transaction without ``allow_gaps``.
    """
    with new_viewer(settings) as viewer:
        topics = SourceTopics(viewer, settings, selection.tables)
        span = find_span(viewer, settings, wanted)
        if span is None:
            return ReplayResult(0, 0, 0)
        with new_output(topics, viewer) as output:
            found = _Transactions(selection, wanted, set(topics.topics), span, allow_gaps=allow_gaps)
            for transaction in found.whole(_ordered(viewer, settings, topics, span)):
                if stop.is_set():
                    break
                output.write(transaction)
    return ReplayResult(found.written, found.events, found.lacking)


def _ordered(viewer: Any, settings: Settings, topics: SourceTopics, span: Span) -> LsnOrder:
    of_transactions: Partition = transaction_topic(settings.source), 0
    ends = {place: end for place, (_, end) in topics.ends().items()}
    since_ms = max(0, span.since_ms - _CLOCKS_MS)
    starts = offsets_since(viewer, list(ends), since_ms)
    return LsnOrder(
        viewer,
        settings,
        of_transactions,
        {**starts, of_transactions: span.offset},
        {**ends, of_transactions: span.end},
        span.last_lsn,
    )


class _Transactions:
    """Put the messages of each transaction together, and count."""

    def __init__(
        self,
        selection: Selection,
        wanted: WantedTransactions,
        tables: Collection[str],
        span: Span,
        *,
        allow_gaps: bool,
    ) -> None:
        self._selection = selection
        self._wanted = wanted
        self._tables = tables
        self._span = span
        self._allow_gaps = allow_gaps
        self._begin: StoredMessage | None = None
        self._begin_id: str | None = None
        self._messages = StoredMessages()
        self._read: Counter[str] = Counter()
        self._written: Counter[str] = Counter()
        self.written = self.events = self.lacking = 0

    def whole(self, messages: LsnOrder) -> Iterator[WholeTransaction]:
        """Yield the wanted transactions that have a wanted event."""
        try:
            for one in messages:
                if one.event.lsn > self._span.after_lsn:
                    yield from self._take(one)
        finally:
            self._messages.close()

    def _take(self, one: OrderedMessage) -> Iterator[WholeTransaction]:
        if not isinstance(one.event, TransactionEvent):
            self._add(one)
        elif one.event.status == "BEGIN":
            self._begin, self._begin_id = stored(one.message), one.event.id.partition(":")[0]
        else:
            yield from self._finish(one.message, one.event)

    def _add(self, one: OrderedMessage) -> None:
        event = one.event
        assert not isinstance(event, TransactionEvent)
        # The rows of a snapshot's chunk come before its BEGIN, and belong to no transaction.
        identity = None if event.transaction is None else event.transaction.partition(":")[0]
        if event.full_name not in self._tables or identity != self._begin_id:
            return
        self._read[event.full_name] += 1
        if self._selection.key is None or self._selection.has_key(one.message.key()):
            self._messages.add(one.message)
            self._written[event.full_name] += 1

    def _finish(self, message: Any, end: TransactionEvent) -> Iterator[WholeTransaction]:
        begin, found, read, written = self._begin, self._messages, self._read, self._written
        self._begin = self._begin_id = None
        self._messages, self._read, self._written = StoredMessages(), Counter(), Counter()
        try:
            if not self._wanted.include(end):
                return
            self._require_all(end, read)
            if found:
                transaction = WholeTransaction(stored(message), end, begin, found, written, not end.event_count)
                yield transaction
                self.written += 1
                self.events += len(found)
        finally:
            found.close()

    def _require_all(self, end: TransactionEvent, read: Counter[str]) -> None:
        """Raise DataError if events of the wanted tables are missing, or warn."""
        counts = end.data_collections or {}
        for table in sorted(counts.keys() & set(self._tables)):
            if read[table] >= counts[table]:
                continue
            lack = (
                f"transaction {end.id} (lsn {end.lsn}) had {counts[table]} events of table {table}, and the topic has "
                f"{read[table]}, because compaction keeps only the last event of a row"
            )
            if not self._allow_gaps:
                raise DataError(f"{lack}. Choose a later range, or write what is left: --allow-gaps")
            _log.warning("%s", lack)
            self.lacking += 1
            return
