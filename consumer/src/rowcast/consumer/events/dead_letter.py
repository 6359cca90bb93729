"""Describe the events that a replica does not apply, and that wait in its dead letter topic as letters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import orjson

from rowcast.consumer.events.position import Partition, message_target
from rowcast.shared.errors import DataError

Stage = Literal["VALUE_CONVERTER", "TASK_PUT"]
"""Kafka Connect's name of the step that failed: reading the event, or writing it to the replica."""

RowKey = tuple[str, bytes]
"""A table and a key in the form of ``plain_row_key``. An empty key stands for all rows, as in a truncate."""

T = TypeVar("T")


def plain_row_key(table: str, key: bytes) -> RowKey:
    """Return a row's key in a single form, because producers write the same JSON with other spaces and orders."""
    return table, key and orjson.dumps(orjson.loads(key), option=orjson.OPT_SORT_KEYS)


class RowMap(Generic[T]):
    """Keep a value for each row, and find the first value that concerns a row. All rows of a table concern each."""

    def __init__(self, values: Iterable[tuple[RowKey, T]] = ()) -> None:
        self._rows: dict[RowKey, T] = {}
        self._tables: dict[str, T] = {}
        for row, value in values:
            self.add(row, value)

    def add(self, row: RowKey, value: T) -> None:
        """Add a value, unless the row has one."""
        self._rows.setdefault(row, value)
        self._tables.setdefault(row[0], value)

    def find(self, row: RowKey) -> T | None:
        """Return the value of the row, of all rows of its table, or of any row if ``row`` stands for all."""
        table, key = row
        if not key:
            return self._tables.get(table)
        found = self._rows.get(row)
        return self._rows.get((table, b"")) if found is None else found

    def __bool__(self) -> bool:
        return bool(self._rows)


class UnreadEvent(NamedTuple):
    """An unreadable event, with its known parts.

    An unknown ``lsn`` is 0, and an unknown name is None. ``key``: as ``plain_row_key``.
    """

    partition: Partition
    offset: int
    lsn: int
    transaction: str | None
    table: str | None
    key: bytes | None
    error: DataError


@dataclass(frozen=True, slots=True)
class SetAside:
    """An event to be written to the dead letter topic.

    ``letter``: the name of the letter. The events of a letter are applied together or not at all. ``key``: as
    ``plain_row_key``. ``exception``: the class of the error. ``is_cause``: whether the event itself was refused. If
    not, the event belongs to the same transaction, or follows an earlier letter of the same row.
    """

    letter: str
    partition: Partition
    offset: int
    lsn: int
    transaction: str | None
    table: str | None
    key: bytes | None
    reason: str
    exception: str
    stage: Stage
    is_cause: bool

    @property
    def target(self) -> str:
        """Return ``topic:partition:offset`` of the event."""
        return message_target(self.partition, self.offset)


@dataclass(frozen=True, slots=True)
class LetterEvent:
    """An event in the dead letter topic, at ``place`` and ``place_offset``, since ``at_ms``."""

    event: SetAside
    place: Partition
    place_offset: int
    at_ms: int


class DeadLetterTopic(Protocol):
    """Write the original messages of events to a dead letter topic."""

    def write(self, events: Sequence[SetAside]) -> list[LetterEvent]:
        """Write the events, and return when Kafka has acknowledged all. Raise RetriableError for a transient fault."""
