"""Read keys from the result of executed DML, and hide the capture's additions from the application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import CursorResult
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy

from rowcast.producer.capture.dml.hidden_rows import processed, processors
from rowcast.producer.database.row_locks import Key


def peek_returned_keys(result: CursorResult[Any], key_columns: Sequence[sa.Column[Any]]) -> tuple[Key, ...] | None:
    """Read the keys in the application's own RETURNING and leave the rows in the result.

    Return None if the RETURNING does not have the key.
    """
    metadata = result._metadata
    positions = [_position(metadata, column) for column in key_columns]
    known = [position for position in positions if position is not None]
    return _keys_at(result, key_columns, known) if len(known) == len(positions) else None


def _position(metadata: Any, column: sa.Column[Any]) -> int | None:
    position: int | None = metadata._index_for_key(column, False)
    if position is None and not isinstance(column, sa.Column):
        # The column stands for one of a table object without types, as of ``sa.table()``. The result has its name.
        position = metadata._index_for_key(str(column.name), False)
    return position


def _keys_at(
    result: CursorResult[Any], key_columns: Sequence[sa.Column[Any]], positions: Sequence[int]
) -> tuple[Key, ...]:
    strategy, description = result.cursor_strategy, result.context.cursor.description
    rows = list(getattr(strategy, "_rowbuffer", ()))
    if not isinstance(strategy, FullyBufferedCursorFetchStrategy):
        assert result.cursor is not None
        rows += result.cursor.fetchall()
        # From now on the application reads from the buffer.
        result.cursor_strategy = FullyBufferedCursorFetchStrategy(result.cursor, initial_buffer=rows)
    # The cursor of an INSERT of many rows may no longer have a description.
    described = [description[position] if description else None for position in positions]
    found = [[row[position] for position in positions] for row in rows]
    return tuple(processed(found, processors(result.context.dialect, described, key_columns)))


def set_rowcount(result: CursorResult[Any], rows: int) -> None:
    """Set the rowcount for the application, because the executed statement was not the application's."""
    # rowcount is a memoized property, so the set value stays.
    result.__dict__["rowcount"] = rows
