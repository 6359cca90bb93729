"""Compare a statement's rowcount with its noted keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import CursorResult
from sqlalchemy.engine.interfaces import ExecuteStyle

from rowcast.producer.capture.notes.folding import Touch
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from rowcast.producer.database.row_locks import Key
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.errors import CaptureError


def note_counted(
    table: CapturedTable, touch: Touch, keys: Sequence[Key], result: CursorResult[Any], notes: TransactionNotes
) -> bool:
    """Note the keys that the parameters of a statement name. Return whether the statement changed a row for each key.

    Otherwise the keys are noted as not locked, because a key that the statement did not find was not changed. Raises
    CaptureError if an UPDATE or DELETE changed more rows than it has keys, because the key is not unique then.
    """
    # The result would remember the number, and some drivers know it only until, or since, the rows have been read.
    rows = result.context.rowcount
    locked = rows == len(keys)
    if not locked:
        if touch is Touch.INSERT:
            locked = rows < 0 or _counts_the_last_batch(result)
        elif rows > len(keys):
            _refuse(table, rows, len(keys), notes)
        elif rows == 0:
            # The row may exist, for example with another version, or with the changes of a trigger.
            touch = Touch.UPDATE
    notes.note(table, touch, keys, locked=locked)
    return locked


def _counts_the_last_batch(result: CursorResult[Any]) -> bool:
    """Return whether the rows came in batches. Then the count is that of the last batch, and all rows were returned."""
    return result.context.execute_style is ExecuteStyle.INSERTMANYVALUES


def _refuse(table: CapturedTable, rows: int, keys: int, notes: TransactionNotes) -> None:
    error = CaptureError(
        f"a statement changed {rows} rows of {table.full_name} but names {keys} primary "
        f"{'key' if keys == 1 else 'keys'}, so the columns of the key in the metadata are not unique in the database. "
        "The commit will fail. Declare the primary key that the database has."
    )
    notes.refuse_commit(error)
    raise error
