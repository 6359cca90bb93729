"""Note the keys of rows that the capture reads and locks before an UPDATE or DELETE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.sql.dml import Delete, Update

from rowcast.producer.capture.dml.cascaded_rows import CascadedRows
from rowcast.producer.capture.dml.changed_rows import distinct, note_new_keys, stored_new_keys, touch_of
from rowcast.producer.capture.dml.pending_statement import ChangedRows, PendingStatement
from rowcast.producer.capture.dml.read_back import find_written
from rowcast.producer.capture.dml.returned_keys import KeysStoredByCte, ReturnedKeys
from rowcast.producer.capture.dml.row_selection import MAX_NAMED_ROWS, RowSelection, pin_keys
from rowcast.producer.capture.notes.transaction_notes import Touch, TransactionNotes
from rowcast.producer.database.row_locks import Key, lock_rows
from rowcast.shared.errors import CaptureError


class LockedRows(ChangedRows):
    """Rows of an UPDATE or DELETE, read and locked before the statement, which is then restricted to these rows.

    ``new_keys``: the keys after an UPDATE, if values name the keys. ``returned``: how the executed statement gives the
    new keys. ``counts_other_rows``: the rowcount includes rows of other tables. ``exclusive``: see
    ``read_and_lock``. ``names_keys``: the parameters name the keys.
    """

    rekeyed_through: Sequence[sa.ForeignKeyConstraint] = ()
    """The foreign keys through which an UPDATE changes the primary keys of children."""
    is_restricted = False
    """Whether the statement cannot change other rows than those that were locked."""

    def __init__(
        self,
        cascades: CascadedRows,
        *,
        new_keys: Sequence[Key] | None = None,
        returned: ReturnedKeys | None = None,
        counts_other_rows: bool = False,
        exclusive: bool = True,
        names_keys: bool = False,
    ) -> None:
        self._exclusive = exclusive
        self._names_keys = names_keys
        self._cascades = cascades
        self.new_keys = new_keys
        self.returned = returned
        self.extends_sql = returned is not None and returned.extends_sql
        self._counts_other_rows = counts_other_rows

    def lock(self, connection: Connection, pending: PendingStatement) -> None:
        """Read and lock the rows, set the pending statement's keys, and restrict the statement to them.

        Have the statement return the new keys. Raises UnknownSyntaxError.
        """
        pending.refuse_to_read_through_dml()
        statement, columns = pending.statement, pending.stored_columns
        assert isinstance(statement, Update | Delete)
        self._read(connection, pending, RowSelection(statement, columns, connection.dialect, exclusive=self._exclusive))
        if self.returned is not None:
            self.returned.prepare(pending)

    def _read(self, connection: Connection, pending: PendingStatement, selection: RowSelection) -> None:
        pending.keys = selection.read_keys(connection, pending.sets, pending.options)
        # A statement for locked keys finds no further row.
        is_exact = self._names_keys and selection.needs_only_the_row and (pending.keys or len(pending.sets) > 1)
        if pending.setting is None and not is_exact:
            self._restrict(pending, selection)

    def _restrict(self, pending: PendingStatement, selection: RowSelection) -> None:
        assert pending.keys is not None
        restricted = selection.restrict(pending.keys, len(pending.sets))
        if restricted is not None:
            self.is_restricted = True
            pending.statement = restricted

    def extend_sql(self, connection: Connection, sql: str, pending: PendingStatement, context: Any) -> str:
        """Return the text with a part that returns the new keys."""
        return sql if self.returned is None else self.returned.extend_sql(connection, sql, pending, context)

    def note(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> None:
        """Note the old keys, the new keys, and the children with changed keys.

        Raises CaptureError if the statement changed more rows than were read before.
        """
        keys = pending.keys
        assert keys is not None
        rowcount = result.rowcount
        new_keys, found = self.new_keys, False
        if self.returned is not None:
            returned = self.returned.read(connection, pending, result, notes)
            assert returned is not None
            if isinstance(self.returned, KeysStoredByCte):
                # The result and the rowcount belong to the outer statement.
                rowcount = len(returned)
            if new_keys is None:
                new_keys, found = returned, True
        if self.new_keys is not None:
            new_keys, found = self._stored_new_keys(connection, pending, self.new_keys, rowcount)
        pending.note_side_effects(notes)
        notes.note(pending.stored, touch_of(pending, rekeys=new_keys is not None), keys, locked=True)
        if new_keys is not None:
            found = found or len(new_keys) == len(keys) == rowcount
            note_new_keys(pending, keys, new_keys, notes, locked=found)
        if self.rekeyed_through:
            self._note_rekeyed_children(connection, pending, keys if new_keys is None else new_keys, notes)
        self._check(connection, pending, keys, rowcount)

    def note_attempted(self, pending: PendingStatement, notes: TransactionNotes) -> bool:
        """Note the locked rows, the dependent rows of other tables, and the new keys."""
        keys = pending.keys
        assert keys is not None
        pending.note_side_effects(notes)
        notes.note(pending.stored, touch_of(pending, rekeys=self.new_keys is not None), keys, locked=True)
        if self.new_keys is not None:
            note_new_keys(pending, keys, self.new_keys, notes, locked=False)
        return True

    def _stored_new_keys(
        self, connection: Connection, pending: PendingStatement, new_keys: Sequence[Key], rowcount: int
    ) -> tuple[Sequence[Key], bool]:
        """Return the stored form of the new keys, and whether the rows were found."""
        return stored_new_keys(connection, pending, new_keys, rowcount)

    def _note_rekeyed_children(
        self, connection: Connection, pending: PendingStatement, parents: Sequence[Key], notes: TransactionNotes
    ) -> None:
        children = self._cascades.find(connection, pending, self.rekeyed_through, parents, delete=False)
        for child, found in children:
            old = {key for table, keys in pending.side_effects if table is child for key in keys}
            notes.note(child, Touch.INSERT, [key for key in found if key not in old], locked=True)

    def _check(self, connection: Connection, pending: PendingStatement, keys: Sequence[Key], rowcount: int) -> None:
        """Raise CaptureError if the statement changed more rows than were read before."""
        if not (self.is_restricted or self._counts_other_rows) and rowcount > len(keys):
            raise CaptureError(
                f"a statement changed {rowcount} rows of {pending.stored.full_name}, but only {len(keys)} of them "
                "existed when the capture read their keys just before, because another transaction added rows "
                "meanwhile, or because the key has another type in the database than in the metadata. Nothing is "
                "committed. Run the transaction again, or compare the types with `rowcast check`."
            )


class NamedLockedRows(LockedRows):
    """Rows with the keys in the parameters, locked because the keys are gone after the statement.

    The capture must know which keys exist, because another transaction may insert a missing key meanwhile. A collation
    may also find a row by a key in another spelling.
    """

    def lock(self, connection: Connection, pending: PendingStatement) -> None:
        """Lock the existing rows, and replace the pending statement's keys by the stored keys."""
        named, stored = distinct(pending.keys or ()), pending.stored
        columns = stored.stored_keys.columns
        pending.keys = tuple(lock_rows(connection, stored.key_columns, columns, named, exclusive=True))


class ComputedRows(LockedRows):
    """Rows of an UPDATE that computes the keys and cannot return them. The capture evaluates the expressions before."""

    def _read(self, connection: Connection, pending: PendingStatement, selection: RowSelection) -> None:
        new_keys = selection.read_new_keys(connection, pending.key_columns, pending.sets[0], pending.options)
        pending.keys, self.new_keys = tuple(new_keys), tuple(new_keys.values())
        self._restrict(pending, selection)
        if selection.needs_pinned_keys() and len(new_keys) <= MAX_NAMED_ROWS:
            assert isinstance(pending.statement, Update)
            pending.statement = pin_keys(pending.statement, pending.key_columns, new_keys)

    def _stored_new_keys(
        self, connection: Connection, pending: PendingStatement, new_keys: Sequence[Key], rowcount: int
    ) -> tuple[Sequence[Key], bool]:
        """Read the new keys. Raise CaptureError if they do not exist, as with a volatile expression."""
        new = distinct(new_keys)
        found = find_written(connection, pending.stored, new)
        if len(found) < len(new):
            raise CaptureError(
                f"an UPDATE of {pending.stored.full_name} made other primary keys than its expressions gave just "
                "before, so the changed rows are not known. Nothing is committed. Give the keys as values, or let the "
                "statement return them."
            )
        return found, True
