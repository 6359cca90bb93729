"""Find the keys of an unchanged INSERT on MariaDB and MySQL.

With a RETURNING, or row by row, the driver would report another rowcount and another ``lastrowid``: an upsert counts 2
for an updated row, and an INSERT of many rows reports the first drawn number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult, Dialect
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.elements import ColumnElement

from rowcast.producer.capture.dml import insert_inspection, inspection, unique_conflicts
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.dml.returned_keys import ReturnedKeys
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT
from rowcast.producer.database.row_locks import Key

MAX_ROWS = 100
"""The greatest number of rows that a driver is sure to send in one statement."""
_MAX_CHARACTERS = 100_000
_STEP = sa.literal_column("@@auto_increment_increment", sa.Integer)


class MatchedKeys(ReturnedKeys):
    """Keys of rows found after the statement, by unique values or by drawn numbers."""

    returns_rows = False

    def read(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> Sequence[Key] | None:
        """Read the keys of the rows with the unique values of a new row, or with a drawn number.

        An unchanged row may have such values, too. The event of an unchanged row is true, because the drain reads the
        row.
        """
        if result.rowcount == 0:
            return ()
        statement = pending.statement
        assert isinstance(statement, Insert)
        matches = list(unique_conflicts.matches(statement, pending.sets))
        conditions = [condition for of_row in matches for condition in of_row]
        if not all(matches):
            if not result.lastrowid:
                return None
            conditions.append(_has_drawn_number(pending, result.lastrowid, len(matches)))
        return unique_conflicts.keys_where(connection, pending, conditions)


def _has_drawn_number(pending: PendingStatement, first: int, count: int) -> ColumnElement[bool]:
    """Return the condition for the numbers that InnoDB reserves for ``count`` rows in succession."""
    column = insert_inspection.drawn_column(pending)
    assert column is not None
    return column.between(first, first + (count - 1) * _STEP)


class ConsecutiveKeys(ReturnedKeys):
    """Keys of rows with numbers drawn by one statement. InnoDB draws the numbers in succession."""

    def read(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> Sequence[Key] | None:
        """Count from the number that the driver reports. This is the first drawn number."""
        statement, columns = pending.statement, pending.key_columns
        assert isinstance(statement, Insert)
        drawn = insert_inspection.drawn_column(pending)
        first = result.lastrowid
        if not first:
            return None
        step = connection.execute(sa.select(_STEP), execution_options=INTERNAL_STATEMENT).scalar_one()
        rows = insert_inspection.rows_of(statement, pending.sets)
        return [
            tuple(first + n * step if column is drawn else row[str(column.key)] for column in columns)
            for n, row in enumerate(rows)
        ]


def find_unreturned(pending: PendingStatement, statement: Insert, dialect: Dialect) -> ReturnedKeys | None:
    """Return the way of finding the keys, or None if the statement must be executed otherwise."""
    if statement.select is not None:
        return None
    upserts = insert_inspection.is_upsert(statement)
    if dialect.insert_returning and (not upserts or statement._post_values_clause is None):
        # The RETURNING has the rows that were inserted, and each counts 1.
        return None
    if dialect.insert_returning and inspection.has_return_defaults(statement):
        # The application's statement has a RETURNING too.
        return None
    rows = list(insert_inspection.rows_of(statement, pending.sets))
    if not upserts and len(rows) == 1 and not statement._multi_values:
        return None
    draws = _draws_all(pending, rows)
    if draws and not upserts:
        return ConsecutiveKeys()
    try:
        matches = list(unique_conflicts.matches(statement, pending.sets))
    except unique_conflicts.UnknownValueError:
        return None
    if upserts and not unique_conflicts.keeps_unique_values(statement, pending.table):
        return None
    return MatchedKeys() if draws or all(matches) else None


def _draws_all(pending: PendingStatement, rows: Sequence[Any]) -> bool:
    """Return whether the statement draws a number for every row, and the driver sends them all at once."""
    columns = pending.key_columns
    drawn = insert_inspection.drawn_column(pending)
    if drawn is None or len(rows) > MAX_ROWS or sum(len(str(row)) for row in rows) > _MAX_CHARACTERS:
        return False
    others = [str(column.key) for column in columns if column is not drawn]
    if any(row.get(str(drawn.key)) is not None for row in rows):
        return False
    return not others or insert_inspection.named_keys(others, rows) is not None
