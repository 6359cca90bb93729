"""Get the keys from the executed statement: a class for each way of returning the keys.

Each class has a step before the statement (``prepare``), a step before the driver gets the text (``extend_sql``) and a
step after the statement (``read``). What is appended to the text begins a new line, because a listener of the
application may have ended the text with a comment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.engine.interfaces import ExecuteStyle
from sqlalchemy.sql.dml import Delete, Insert, Update

from rowcast.producer.capture.dml import ctes, insert_inspection, inspection, results
from rowcast.producer.capture.dml.hidden_rows import HiddenColumns, RowsOneByOne, forget_returning, report_insert_id
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.dml.read_back import read_back
from rowcast.producer.capture.dml.statement_tables import is_aliased
from rowcast.producer.capture.drain.bulk_update import BulkUpdate
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.row_locks import Key


class ReturnedKeys(ABC):
    """A way of getting the keys from an executed statement."""

    returns_rows = True
    """Whether each key is that of a row which the statement has returned. Otherwise the keys are given or reported."""
    extends_sql = False
    """Whether ``extend_sql`` may change the statement's text."""

    def prepare(self, pending: PendingStatement) -> None:  # noqa: B027  # most ways change nothing
        """Prepare the pending statement to give the keys. Most classes change nothing."""

    def extend_sql(self, connection: Connection, sql: str, pending: PendingStatement, context: Any) -> str:
        """Return the text that the driver executes in place of ``sql``.

        ``context``: SQLAlchemy's execution context. Called only if ``extends_sql``.
        """
        return sql

    def attempted_keys(self) -> Sequence[Key] | None:
        """Return the keys of the rows inserted by a failed INSERT, or None if only the parameters can have the keys."""
        return None

    @abstractmethod
    def read(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> Sequence[Key] | None:
        """Return the keys of the executed statement, or None if the keys are missing."""


class ReportedKeys(ReturnedKeys):
    """Keys in the parameters of an INSERT, or reported by SQLAlchemy after the INSERT.

    SQLAlchemy reports the keys in ``inserted_primary_key``.
    """

    returns_rows = False

    def read(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> Sequence[Key] | None:
        """Return the keys in the parameters, else the keys reported by SQLAlchemy."""
        statement = pending.statement
        assert isinstance(statement, Insert)
        if pending.keys is not None:
            return pending.keys
        given = insert_inspection.given_keys(statement, pending.key_columns, pending.sets)
        if given is not None:
            return given
        keys = insert_inspection.inserted_keys(statement, result, pending.key_columns, pending.sets)
        if keys and not pending.stored.stored_keys.holds_keys(keys):
            # A default of Python has made a value of another type than the column's.
            at_least = 0 if insert_inspection.is_upsert(statement) else len(keys)
            return read_back(connection, pending.stored, keys, at_least=at_least)
        return keys


class SentKeys(ReturnedKeys):
    """Keys in the values of an INSERT, or drawn by SQLAlchemy before the INSERT. A row may have been stored or not."""

    returns_rows = False

    def read(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> Sequence[Key] | None:
        """Return the sent keys, or None if the database draws a key."""
        statement = pending.statement
        assert isinstance(statement, Insert)
        known = insert_inspection.known_keys(statement, pending.key_columns, pending.sets)
        if known is None and insert_inspection.has_single_row(statement, pending.sets):
            # SQLAlchemy reports no row if the database returned none.
            return insert_inspection.inserted_keys(statement, result, pending.key_columns, pending.sets) or None
        return known


class ReadBackKeys(ReturnedKeys):
    """Keys of an INSERT as they are stored, on an engine without RETURNING. ``sent``: how to know the sent values."""

    def __init__(self, sent: ReturnedKeys) -> None:
        self._sent = sent

    def read(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> Sequence[Key] | None:
        """Read the keys of the inserted rows. An upsert may have changed the row of another key."""
        statement = pending.statement
        assert isinstance(statement, Insert)
        keys = self._sent.read(connection, pending, result, notes)
        if not keys:
            return keys
        at_least = 0 if insert_inspection.is_upsert(statement) else len(keys)
        return read_back(connection, pending.stored, keys, at_least=at_least)


class LastInsertedKey(ReturnedKeys):
    """The key of a single inserted row on an engine without RETURNING, with a number that the driver reports."""

    returns_rows = False

    def read(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> Sequence[Key] | None:
        """Return the key, with the number that the database drew."""
        assert isinstance(pending.statement, Insert)
        return insert_inspection.last_inserted_key(pending.statement, pending, result)


class InjectedReturning(ReturnedKeys):
    """Keys in a RETURNING added by the capture to an INSERT without RETURNING.

    The RETURNING is in the executed text only, except in a statement with many parameter sets. SQLAlchemy must know of
    that one, because most drivers would not return rows. ``one_by_one``: see ``RowsOneByOne``.
    """

    extends_sql = True

    def __init__(self, *, one_by_one: bool = False) -> None:
        self._one_by_one = one_by_one
        self._hidden: HiddenColumns | RowsOneByOne | None = None
        self._is_known = False

    def prepare(self, pending: PendingStatement) -> None:
        """Add a RETURNING of the key to a statement with many parameter sets, unless SQLAlchemy adds one."""
        assert isinstance(pending.statement, Insert)
        if len(pending.sets) > 1 and not (self._one_by_one or inspection.has_return_defaults(pending.statement)):
            self._is_known = True
            pending.statement = pending.statement.returning(*pending.stored_columns)

    def extend_sql(self, connection: Connection, sql: str, pending: PendingStatement, context: Any) -> str:
        """Append the key to the text, as a RETURNING or to the RETURNING in which SQLAlchemy asks for drawn keys."""
        if self._is_known:
            return sql
        names = _names(connection, pending)
        if context.execute_style is ExecuteStyle.EXECUTEMANY:
            self._hidden = RowsOneByOne(context, pending.stored_columns, names)
            return sql
        if self._hidden is None:
            self._hidden = hidden = HiddenColumns(context, pending.stored_columns)
            if capture_dialect(connection.dialect).reports_insert_id and not context.compiled.effective_returning:
                report_insert_id(context, lambda: _insert_id(pending, hidden.rows))
        return f"{sql}\n, {names}" if context.compiled.effective_returning else f"{sql}\nRETURNING {names}"

    def attempted_keys(self) -> Sequence[Key] | None:
        """Return the keys of the rows inserted before the failure, if the rows are inserted one by one."""
        return self._hidden.rows if isinstance(self._hidden, RowsOneByOne) else None

    def read(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> Sequence[Key]:
        """Return the hidden keys, or take the rows from the result, because the application expects none."""
        if self._hidden is not None:
            return self._hidden.rows
        keys = [tuple(row) for row in result.all()]
        forget_returning(result, keys)
        if capture_dialect(connection.dialect).reports_insert_id:
            report_insert_id(result.context, lambda: _insert_id(pending, keys))
        return keys


def _insert_id(pending: PendingStatement, keys: Sequence[Key]) -> int | None:
    assert isinstance(pending.statement, Insert)
    return insert_inspection.insert_id(pending.statement, pending, keys)


class OwnReturning(ReturnedKeys):
    """Keys in the application's own RETURNING."""

    def read(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> Sequence[Key] | None:
        """Read the keys and leave the rows in the result."""
        return results.peek_returned_keys(result, pending.key_columns)


class ExtendedOwnReturning(ReturnedKeys):
    """Keys appended to the text of the application's own RETURNING, and hidden."""

    extends_sql = True

    def __init__(self) -> None:
        self._hidden: HiddenColumns | None = None

    def extend_sql(self, connection: Connection, sql: str, pending: PendingStatement, context: Any) -> str:
        """Append the key columns to the RETURNING at the end of the text."""
        if self._hidden is None:
            self._hidden = HiddenColumns(context, pending.stored_columns)
        return f"{sql}\n, {_names(connection, pending)}"

    def read(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> Sequence[Key]:
        """Return the hidden keys."""
        assert self._hidden is not None
        return self._hidden.rows


class AppendedReturning(ReturnedKeys):
    """Keys in a RETURNING appended to the text of an UPDATE or DELETE.

    Appending is faster than ``return_defaults``, because SQLAlchemy makes no row objects. With ``bulk_update`` the
    statement may also write its own outbox rows.
    """

    extends_sql = True

    def __init__(self) -> None:
        self.bulk_update: BulkUpdate | None = None
        """Set if the statement may write its own outbox rows."""
        self._hidden: HiddenColumns | None = None
        self._is_counted = False

    def extend_sql(self, connection: Connection, sql: str, pending: PendingStatement, context: Any) -> str:
        """Append a RETURNING of the key, or wrap the text in a statement that also writes outbox rows."""
        columns = pending.stored.stored_keys.columns
        if context.compiled.effective_returning:
            # The ORM has asked for the changed rows to refresh objects.
            self._hidden = HiddenColumns(context, columns)
            return f"{sql}\n, {_names(connection, pending)}"
        # The wrapping text has doubled % signs. The driver reduces doubled signs only in a statement with parameters.
        can_wrap = not (context.no_parameters or ctes.ctes_of(context) or is_aliased(pending.statement))
        if self.bulk_update is not None and can_wrap:
            self._is_counted = True
            self._hidden = HiddenColumns(context, (_TOTAL, *columns))
            return self.bulk_update.wrap_update(sql, pending.stored)
        self._hidden = HiddenColumns(context, columns)
        if capture_dialect(connection.dialect).reports_insert_id:
            report_insert_id(context, lambda: 0)
        return f"{sql}\nRETURNING {_names(connection, pending)}"

    def read(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> Sequence[Key] | None:
        """Read the keys according to the executed text. Return None if the statement has written the outbox rows."""
        assert self._hidden is not None
        if not self._is_counted:
            return self._hidden.rows
        total, first, *_ = self._hidden.rows[0]
        results.set_rowcount(result, total)
        if first is not None:
            return [row[1:] for row in self._hidden.rows]
        if not total:
            return ()
        notes.outbox_written = True
        return None


_TOTAL = sa.literal_column("total", sa.BigInteger)
"""The number of changed rows in the result of a wrapped UPDATE (see ``BulkUpdate``)."""


class KeysStoredByCte(ReturnedKeys):
    """Keys of DML in a CTE, stored in a setting of the transaction by an added CTE (see ``ctes``)."""

    def __init__(self, setting: str) -> None:
        self._setting = setting

    def read(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> Sequence[Key]:
        """Read the keys from the setting. The result belongs to the outer statement."""
        return ctes.stored_keys(connection, self._setting, pending.stored_columns)


def _names(connection: Connection, pending: PendingStatement) -> str:
    """Return the list of the key columns for a RETURNING, with the name of the table where other tables are visible."""
    names_table = isinstance(pending.statement, Update | Delete) and not is_aliased(pending.statement)
    qualified = names_table and capture_dialect(connection.dialect).qualifies_returning
    return ", ".join(pending.stored.stored_keys.returning(qualified=qualified))


REPORTED = ReportedKeys()
"""The instance for all INSERTs, because it keeps nothing."""

SENT = SentKeys()
"""The instance for all INSERTs, because it keeps nothing."""
