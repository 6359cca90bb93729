"""Read written keys back after a statement, if the statement itself cannot return the keys."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.database.row_locks import Key, lock_any
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.errors import CaptureError


def read_back(connection: Connection, table: CapturedTable, sent: Sequence[Key], *, at_least: int) -> list[Key]:
    """Return the stored keys of the rows that a statement has just written with the values ``sent``, in any order.

    Raises CaptureError if there are fewer rows than ``at_least``. Then the database has stored other keys than the
    types of the columns make of the values.
    """
    found = find_written(connection, table, sent)
    if len(found) < at_least:
        raise CaptureError(
            f"a statement wrote {at_least} rows of {table.full_name}, but only {len(found)} rows have the primary keys "
            "that it sent, so the changed rows are not known. The database stores other keys than it is sent. Nothing "
            "is committed. Send the keys as the columns store them."
        )
    return found


def find_written(connection: Connection, table: CapturedTable, sent: Sequence[Key]) -> list[Key]:
    """Return the stored keys of the existing rows whose keys were written as the values ``sent``. Lock the rows."""
    conditions = [_has_key(table, key) for key in sent]
    return lock_any(connection, table.stored_keys.columns, table.table, conditions)


def _has_key(table: CapturedTable, key: Key) -> sa.ColumnElement[bool]:
    columns = table.stored_keys.key_columns
    return sa.and_(
        *(c.given == c.as_stored(value, table.stored_keys.dialect) for c, value in zip(columns, key, strict=True))
    )
