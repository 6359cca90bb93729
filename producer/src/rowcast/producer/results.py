"""What executed DML returned: reading keys from its result, and hiding what the application did not ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import CursorResult
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.sql.elements import ColumnElement

from rowcast.producer.statements import Key

Processor: TypeAlias = Callable[[Any], Any]


def returned_keys(result: CursorResult[Any], key_columns: Sequence[ColumnElement[Any]]) -> tuple[Key, ...]:
    """The keys that ``return_defaults`` brought back."""
    rows = result.returned_defaults_rows or ()
    if not rows:
        return ()
    index = rows[0]._key_to_index
    positions = [index[column] for column in key_columns]
    return tuple([tuple([row[position] for position in positions]) for row in rows])


def take_keys(result: CursorResult[Any], key_columns: Sequence[sa.Column[Any]]) -> tuple[Key, ...]:
    """The keys that a RETURNING brought of which SQLAlchemy and the application know nothing."""
    assert result.cursor is not None
    processors = _processors(result, key_columns, range(len(key_columns)))
    rows = result.cursor.fetchall()
    result._soft_close()
    if not any(processors):
        return tuple(map(tuple, rows))
    return tuple(_processed(row, processors) for row in rows)


def take_counted_keys(
    result: CursorResult[Any], key_columns: Sequence[sa.Column[Any]]
) -> tuple[int, tuple[Key, ...] | None]:
    """The number of rows that a wrapped statement has changed (see ``ReturnedImages``) and their keys; None in their
    place if the outbox has them already."""
    assert result.cursor is not None
    processors = _processors(result, key_columns, range(1, len(key_columns) + 1))
    rows = result.cursor.fetchall()
    result._soft_close()
    total, first, *_ = rows[0]
    set_rowcount(result, total)
    if first is None:
        return total, None if total else ()
    return total, tuple(_processed(row[1:], processors) for row in rows)


def peek_returned_keys(result: CursorResult[Any], key_columns: Sequence[sa.Column[Any]]) -> tuple[Key, ...] | None:
    """The keys in the application's own RETURNING, read without taking its rows from it; None if they are not in it."""
    metadata = result._metadata
    positions = [metadata._index_for_key(column, False) for column in key_columns]
    known = [position for position in positions if position is not None]
    return _keys_at(result, key_columns, known) if len(known) == len(positions) else None


def peek_last_columns(result: CursorResult[Any], key_columns: Sequence[sa.Column[Any]]) -> tuple[Key, ...]:
    """The same, where the keys were appended to the RETURNING."""
    return _keys_at(result, key_columns, range(-len(key_columns), 0))


def _keys_at(
    result: CursorResult[Any], key_columns: Sequence[sa.Column[Any]], positions: Sequence[int]
) -> tuple[Key, ...]:
    strategy = result.cursor_strategy
    rows = list(getattr(strategy, "_rowbuffer", ()))
    if not isinstance(strategy, FullyBufferedCursorFetchStrategy):
        assert result.cursor is not None
        rows += result.cursor.fetchall()
        # What the application reads from now on is this buffer.
        result.cursor_strategy = FullyBufferedCursorFetchStrategy(result.cursor, initial_buffer=rows)
    processors = _processors(result, key_columns, positions)
    return tuple(_processed([row[position] for position in positions], processors) for row in rows)


def _processors(
    result: CursorResult[Any], key_columns: Sequence[sa.Column[Any]], positions: Sequence[int]
) -> list[Processor | None]:
    """Of the columns at these positions: what is to be done depends on what the driver says that it brings, too."""
    dialect, description = result.context.dialect, result.context.cursor.description
    # An INSERT of many rows may have forgotten it.
    brought = [description[position][1] if description else None for position in positions]
    return [
        column.type._cached_result_processor(dialect, type_) for column, type_ in zip(key_columns, brought, strict=True)
    ]


def _processed(values: Sequence[Any], processors: Sequence[Processor | None]) -> Key:
    """The driver's values as the application knows them."""
    pairs = zip(values, processors, strict=True)
    return tuple(value if process is None else process(value) for value, process in pairs)


def hide_last_columns(result: CursorResult[Any], count: int) -> None:
    """The application sees the columns that it asked for."""
    result.columns(*range(len(result.keys()) - count))


def set_rowcount(result: CursorResult[Any], rows: int) -> None:
    """What the application sees of a statement that was executed otherwise than it was given."""
    # A memoized property: what is set stays.
    result.__dict__["rowcount"] = rows
