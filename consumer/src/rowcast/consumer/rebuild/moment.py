"""Find the transaction after which a copy ends, from a time, a transaction's id, or an lsn."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from rowcast.consumer.reading.topic_metadata import new_viewer, partition_ends, partitions_of
from rowcast.consumer.topics.messages_between import messages_between
from rowcast.consumer.topics.selection import parse_since
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.kafka.messages import TransactionEvent, parse_transaction
from rowcast.shared.kafka.signature import SignatureCheck
from rowcast.shared.kafka.topic_names import transaction_topic

_TIME = re.compile(r"\d{4}-\d{2}-.*|\d+(\.\d+)?\s*[smhd]")
_LSN = re.compile(r"lsn:(\d+)")
_SNAPSHOT = "snapshot-"


@dataclass(frozen=True, slots=True)
class Moment:
    """The state after a transaction.

    ``lsn``, ``transaction`` and ``ts_ms`` are those of the transaction's END. ``next_ms``: Kafka's time of the next
    record of the transaction topic, or None without one. ``precedes_snapshot``: whether a chunk of a snapshot was
    published later. ``out_of_order``: how many earlier transactions have a time after the wanted one.
    """

    lsn: int
    transaction: str
    ts_ms: int
    next_ms: int | None
    precedes_snapshot: bool
    out_of_order: int = 0

    def __str__(self) -> str:
        """Return transaction, time and lsn as a text for messages."""
        return f"transaction {self.transaction} ({time_text(self.ts_ms)}, lsn {self.lsn})"


def time_text(ms: int) -> str:
    """Return milliseconds since 1970 as a date and time in UTC."""
    moment = datetime.fromtimestamp(ms / 1_000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{ms % 1_000:03d}Z"


def find_moment(settings: Settings, until: str) -> Moment:
    """Return the moment that ``until`` names: a time, the id of a transaction, or ``lsn:N``.

    A time stands for the last transaction, in the order of the topic, that was committed at the time or before. Raise
    ConfigurationError if the transaction topic does not show the moment.
    """
    if _TIME.fullmatch(until):
        return _AtTime(until).find(settings)
    if (match := _LSN.fullmatch(until)) is not None:
        return _AtLsn(int(match[1])).find(settings)
    return _AtTransaction(until).find(settings)


class _Search:
    """Read the transaction topic once, and keep the last wanted END. ``wanted``: as it stands in messages."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._first: TransactionEvent | None = None
        self._end: TransactionEvent | None = None
        self._next_ms: int | None = None
        self._precedes_snapshot = False
        self._last: TransactionEvent | None = None
        self._unwanted = 0
        self._unwanted_before = 0

    def find(self, settings: Settings) -> Moment:
        for event, published_ms in _read_transactions(settings):
            self._take(event, published_ms)
        if self._end is None or self._last is None:
            raise ConfigurationError(f"--until {self._wanted}: {self._not_found(settings)}")
        self._require_known(self._end, self._last)
        return Moment(
            self._end.lsn, self._end.id, self._end.ts_ms, self._next_ms, self._precedes_snapshot, self._unwanted_before
        )

    def _take(self, event: TransactionEvent, published_ms: int) -> None:
        self._last = event
        if event.status == "END":
            self._first = self._first or event
            if self._is_wanted(event):
                self._end, self._next_ms, self._precedes_snapshot = event, None, False
                self._unwanted_before = self._unwanted
                return
            self._unwanted += 1
            self._precedes_snapshot |= event.id.startswith(_SNAPSHOT)
        if self._end is not None and self._next_ms is None:
            self._next_ms = published_ms

    def _not_found(self, settings: Settings) -> str:
        topic = transaction_topic(settings.source)
        if self._first is None:
            return f"topic {topic} has no transactions. Start the relay"
        return (
            f"topic {topic} does not show it. Its first transaction is {self._first.id} "
            f"({time_text(self._first.ts_ms)}, lsn {self._first.lsn}), because the topic is kept by time. Name a "
            "transaction that `rowcast topics search` shows"
        )

    def _is_wanted(self, event: TransactionEvent) -> bool:
        raise NotImplementedError

    def _require_known(self, end: TransactionEvent, last: TransactionEvent) -> None:
        """Raise ConfigurationError if transactions up to the moment may still be on their way."""


class _AtTime(_Search):
    def __init__(self, until: str) -> None:
        super().__init__(until)
        self._ms = parse_since(until)
        if self._ms > time.time() * 1_000:
            raise ConfigurationError(f"--until {until} is in the future.")

    def _is_wanted(self, event: TransactionEvent) -> bool:
        return event.ts_ms <= self._ms

    def _require_known(self, end: TransactionEvent, last: TransactionEvent) -> None:
        if self._unwanted == self._unwanted_before:
            raise ConfigurationError(
                f"--until {self._wanted}: the topics show no later transaction yet, so transactions up to this time "
                f"may still be on their way. To copy up to the last transaction in the topics: --until {end.id}"
            )


class _AtLsn(_Search):
    def __init__(self, lsn: int) -> None:
        super().__init__(f"lsn:{lsn}")
        self._lsn = lsn

    def _is_wanted(self, event: TransactionEvent) -> bool:
        return event.lsn <= self._lsn

    def _require_known(self, end: TransactionEvent, last: TransactionEvent) -> None:
        if last.lsn < self._lsn:
            raise ConfigurationError(
                f"--until {self._wanted}: the last lsn in the topics is {last.lsn}. Name an lsn up to this one."
            )


class _AtTransaction(_Search):
    def __init__(self, transaction: str) -> None:
        super().__init__(transaction)
        self._lsns: set[int] = set()

    def _is_wanted(self, event: TransactionEvent) -> bool:
        if self._wanted not in (event.id, event.id.partition(":")[0]):
            return False
        self._lsns.add(event.lsn)
        return True

    def _require_known(self, end: TransactionEvent, last: TransactionEvent) -> None:
        if len(self._lsns) > 1:
            ends = " or ".join(f"lsn:{lsn}" for lsn in sorted(self._lsns))
            raise ConfigurationError(f"--until {self._wanted}: several transactions have this id. Name {ends}.")


def _read_transactions(settings: Settings) -> Iterator[tuple[TransactionEvent, int]]:
    """Yield each committed BEGIN and END, with Kafka's time of the record. Raise DataError and UnreachableError."""
    place = transaction_topic(settings.source), 0
    signatures = SignatureCheck(settings.signature_keys)
    with new_viewer(settings) as viewer:
        if not partitions_of(viewer, [place[0]]):
            return
        first, end = partition_ends(viewer, [place])[place]
        for message in messages_between(viewer, settings, {place: first}, {place: end}):
            if message.value() is not None:
                signatures.check(place[0], message.key(), message.value(), message.headers())
                yield parse_transaction(message.value()), int(message.timestamp()[1])
