"""The rows of ``rowcast_dead_letter``: the events in the dead letter topic, and the blocked rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.events.dead_letter import LetterEvent, RowKey, SetAside
from rowcast.consumer.replica.worker_tables import MAX_REASON, ROWCAST_DEAD_LETTER, select_rows

_MOST_ROWS = 1_000
_LONGEST_EXCEPTION = 255

_ROW = ROWCAST_DEAD_LETTER.c
_IS_EVENT = (
    (_ROW.source == sa.bindparam("s"))
    & (_ROW.topic == sa.bindparam("t"))
    & (_ROW.partition == sa.bindparam("p"))
    & (_ROW.event_offset == sa.bindparam("o"))
)
_DELETE = sa.delete(ROWCAST_DEAD_LETTER).where(_IS_EVENT)


class LetterCounts(NamedTuple):
    """How much waits in the dead letter topic. ``oldest_ms``: since when, in milliseconds since 1970, or None."""

    transactions: int = 0
    events: int = 0
    oldest_ms: int | None = None


NO_LETTERS = LetterCounts()


def has_letter_table(connection: Connection) -> bool:
    """Return whether the replica has the table. A replica of an earlier version has none."""
    return sa.inspect(connection).has_table(ROWCAST_DEAD_LETTER.name)


def read_letter_events(connection: Connection, source: str) -> list[LetterEvent]:
    """Return all waiting events, in the order of their lsns."""
    query = select_rows(connection, ROWCAST_DEAD_LETTER).where(_ROW.source == source)
    order = (_ROW.lsn, _ROW.topic, _ROW.partition, _ROW.event_offset)
    return [_event(row) for row in connection.execute(query.order_by(*order))]


def count_letters(connection: Connection, source: str) -> LetterCounts:
    """Return how many transactions and events wait. An event without a transaction counts as one."""
    if not has_letter_table(connection):
        return NO_LETTERS
    numbers = (
        sa.func.count(sa.distinct(sa.func.coalesce(_ROW.tx, _ROW.letter))),
        sa.func.count(),
        sa.func.min(_ROW.at_ms),
    )
    query = sa.select(*numbers).select_from(ROWCAST_DEAD_LETTER).where(_ROW.source == source)
    return LetterCounts(*connection.execute(query).one())


def blocked_keys(connection: Connection, source: str) -> set[RowKey]:
    """Return the rows whose events follow into the dead letter topic."""
    query = sa.select(_ROW.table_name, _ROW.row_key).where(_ROW.source == source, _ROW.row_key.is_not(None))
    return {(row.table_name, row.row_key.encode()) for row in connection.execute(query)}


def add_letters(connection: Connection, source: str, letters: Sequence[LetterEvent]) -> None:
    """Insert rows. A row of the same event is replaced, because a worker may write an event twice after a crash."""
    for start in range(0, len(letters), _MOST_ROWS):
        part = letters[start : start + _MOST_ROWS]
        remove_letters(connection, source, part)
        connection.execute(sa.insert(ROWCAST_DEAD_LETTER), [_values(source, letter) for letter in part])


def remove_letters(connection: Connection, source: str, letters: Sequence[LetterEvent]) -> None:
    """Delete the rows of these events."""
    places = [
        {"s": source, "t": one.event.partition[0], "p": one.event.partition[1], "o": one.event.offset}
        for one in letters
    ]
    if places:
        connection.execute(_DELETE, places)


def rename_letter_table(connection: Connection, source: str, former: str, name: str) -> None:
    """Give the rows of a renamed table the present name, because later events of the keys have the present name."""
    renamed = sa.update(ROWCAST_DEAD_LETTER).where(_ROW.source == source, _ROW.table_name == former)
    connection.execute(renamed.values(table_name=name))


def _values(source: str, letter: LetterEvent) -> dict[str, Any]:
    event = letter.event
    topic, partition = event.partition
    dlq_topic, dlq_partition = letter.place
    return {
        "source": source, "topic": topic, "partition": partition, "event_offset": event.offset, "letter": event.letter,
        "lsn": event.lsn, "tx": event.transaction, "table_name": event.table,
        "row_key": None if event.key is None else event.key.decode(), "reason": event.reason[:MAX_REASON],
        "exception": event.exception[:_LONGEST_EXCEPTION], "stage": event.stage, "is_cause": event.is_cause,
        "dlq_topic": dlq_topic, "dlq_partition": dlq_partition, "dlq_offset": letter.place_offset,
        "at_ms": letter.at_ms,
    }  # fmt: skip


def _event(row: Any) -> LetterEvent:
    key = None if row.row_key is None else row.row_key.encode()
    event = SetAside(
        row.letter, (row.topic, row.partition), row.event_offset, row.lsn, row.tx, row.table_name, key, row.reason,
        row.exception, row.stage, bool(row.is_cause),
    )  # fmt: skip
    return LetterEvent(event, (row.dlq_topic, row.dlq_partition), row.dlq_offset, row.at_ms)
