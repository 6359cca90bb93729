"""Note the keys of the rows changed by a statement: a class for each way of knowing the keys.

``locked_rows`` has the classes that read and lock the rows before the statement. The chooser for INSERT is
``insert_keys``, the chooser for UPDATE and DELETE is ``update_keys``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.sql.dml import Delete, Insert

from rowcast.producer.capture.dml import insert_inspection
from rowcast.producer.capture.dml.pending_statement import ChangedRows, PendingStatement
from rowcast.producer.capture.dml.read_back import find_written, read_back
from rowcast.producer.capture.dml.returned_keys import REPORTED, SENT, ReturnedKeys
from rowcast.producer.capture.dml.row_counts import note_counted
from rowcast.producer.capture.notes.strictness import StrictnessRule
from rowcast.producer.capture.notes.transaction_notes import Touch, TransactionNotes
from rowcast.producer.database.row_locks import Key


class RowsOfStatement(ChangedRows):
    """Rows whose keys the executed statement gives. ``returned``: how it gives the keys."""

    def __init__(self, returned: ReturnedKeys) -> None:
        self.returned = returned
        self.extends_sql = returned.extends_sql

    def extend_sql(self, connection: Connection, sql: str, pending: PendingStatement, context: Any) -> str:
        """Return the text with a part that returns the keys."""
        return self.returned.extend_sql(connection, sql, pending, context)


class InsertedRows(RowsOfStatement):
    """Rows of an INSERT or upsert."""

    def __init__(self, strictness: StrictnessRule, returned: ReturnedKeys = REPORTED) -> None:
        super().__init__(returned)
        self._strictness = strictness

    def note(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> None:
        """Note the keys as new. Note the keys of an upsert as updated, because an upsert may have found the row."""
        statement = pending.statement
        assert isinstance(statement, Insert)
        pending.note_side_effects(notes)
        keys = self.returned.read(connection, pending, result, notes)
        if keys is None:
            pending.refuse_or_warn(self._strictness, "an INSERT that does not return the new rows' keys")
        else:
            self._note_keys(connection, pending, statement, keys, result, notes)

    def _note_keys(
        self,
        connection: Connection,
        pending: PendingStatement,
        statement: Insert,
        keys: Sequence[Key],
        result: CursorResult[Any],
        notes: TransactionNotes,
    ) -> None:
        if insert_inspection.replaces(statement):
            # A row of the statement may replace an earlier row of the statement.
            notes.note(pending.stored, Touch.INSERT, keys, locked=len(keys) == 1)
        elif insert_inspection.is_upsert(statement):
            # The given key of an upsert is not the changed key if a stored row has another key and an equal unique
            # value, or if the statement ignores an error.
            notes.note(pending.stored, Touch.UPDATE, keys, locked=self.returned.returns_rows)
        elif self.returned.returns_rows:
            notes.note(pending.stored, Touch.INSERT, keys, locked=True)
        else:
            note_counted(pending.stored, Touch.INSERT, keys, result, notes)

    def note_attempted(self, pending: PendingStatement, notes: TransactionNotes) -> bool:
        """Note the keys in the parameters. Return False if the statement draws keys."""
        assert isinstance(pending.statement, Insert)
        keys = self.returned.attempted_keys()
        if keys is None:
            keys = insert_inspection.given_keys(pending.statement, pending.key_columns, pending.sets)
        if keys is not None:
            notes.note(pending.stored, Touch.INSERT, keys, locked=False)
        return keys is not None


class RedirectedRows(InsertedRows):
    """Rows of an INSERT into a table whose trigger or rule may write something else in the place of a row.

    The row may then be found under its key: in a child of the table (INHERITS), or as an updated row.
    """

    def _note_keys(
        self,
        connection: Connection,
        pending: PendingStatement,
        statement: Insert,
        keys: Sequence[Key],
        result: CursorResult[Any],
        notes: TransactionNotes,
    ) -> None:
        if self.returned.returns_rows:
            super()._note_keys(connection, pending, statement, keys, result, notes)
            rows = insert_inspection.single_rows(statement, pending.sets)
            if rows is not None and len(keys) >= len(rows):
                return
            sent = SENT.read(connection, pending, result, notes)
            if sent is None:
                pending.refuse_or_warn(self._strictness, "an INSERT that a trigger may have replaced")
                return
            keys = sent
        notes.note(pending.stored, Touch.UPDATE, find_written(connection, pending.stored, keys), locked=True)


class ReturnedRows(RowsOfStatement):
    """Rows of a DELETE, or of an UPDATE that does not set key columns."""

    def note(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> None:
        """Note the returned keys."""
        returned = self.returned.read(connection, pending, result, notes)
        pending.note_side_effects(notes)
        notes.note(pending.stored, touch_of(pending, rekeys=False), returned or (), locked=True)


class NamedRows(ChangedRows):
    """Rows of an UPDATE or DELETE with the keys in the parameters. Nothing is read before the statement."""

    def __init__(self, new_keys: Sequence[Key] | None = None) -> None:
        self._new_keys = new_keys

    def note(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> None:
        """Note the named keys and the new keys."""
        keys = pending.keys
        assert keys is not None
        pending.note_side_effects(notes)
        found_all = note_counted(pending.stored, self._touch(pending), keys, result, notes)
        if self._new_keys is not None:
            new_keys, found = stored_new_keys(connection, pending, self._new_keys, result.rowcount)
            note_new_keys(pending, keys, new_keys, notes, locked=found or found_all)

    def note_attempted(self, pending: PendingStatement, notes: TransactionNotes) -> bool:
        """Note the named keys and the new keys."""
        keys = pending.keys
        assert keys is not None
        notes.note(pending.stored, self._touch(pending), keys, locked=False)
        if self._new_keys is not None:
            note_new_keys(pending, keys, self._new_keys, notes, locked=False)
        return True

    def _touch(self, pending: PendingStatement) -> Touch:
        touch = touch_of(pending, rekeys=self._new_keys is not None)
        folds = touch is Touch.UPDATE and pending.stored.stored_keys.folding_columns
        return Touch.UPDATE_EQUAL if folds else touch


NAMED = NamedRows()
"""The instance for all statements that do not change the key."""


class UnseenRows(ChangedRows):
    """Unknown rows of a statement. The capture has warned of the statement."""

    def note(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> None:
        """Note the known side effects."""
        pending.note_side_effects(notes)


def touch_of(pending: PendingStatement, *, rekeys: bool) -> Touch:
    """Return the touch under which the rows are noted. ``rekeys``: the statement changes their keys."""
    return Touch.DELETE if rekeys or isinstance(pending.statement, Delete) else Touch.UPDATE


def distinct(keys: Sequence[Key]) -> list[Key]:
    """Return the keys without repetitions. Keys of values that are not hashable stay as they are."""
    try:
        return list(dict.fromkeys(keys))
    except TypeError:
        return list(keys)


def stored_new_keys(
    connection: Connection, pending: PendingStatement, new_keys: Sequence[Key], rowcount: int
) -> tuple[Sequence[Key], bool]:
    """Return the stored keys after an UPDATE of ``rowcount`` rows, and whether the keys were read back."""
    stored = pending.stored.stored_keys
    if stored.may_be_sent and stored.holds_keys(new_keys):
        return new_keys, False
    return read_back(connection, pending.stored, distinct(new_keys), at_least=rowcount), True


def note_new_keys(
    pending: PendingStatement, keys: Sequence[Key], new_keys: Sequence[Key], notes: TransactionNotes, *, locked: bool
) -> None:
    """Note the keys that rows have only since the UPDATE. ``locked``: the UPDATE has changed a row for each key."""
    old = set(keys)
    notes.note(pending.stored, Touch.INSERT, [key for key in new_keys if key not in old], locked=locked)
