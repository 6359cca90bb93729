"""Learning which rows each DML statement changes: before it runs, from it, and after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.sql.dml import Delete, Insert, Update, UpdateBase

from rowcast.producer import statements
from rowcast.producer.announcements import Announcer
from rowcast.producer.cascades import Cascades
from rowcast.producer.old_rows import old_rows, rows_in_the_way
from rowcast.producer.tables import CapturedTable
from rowcast.producer.touched import Key, Touch, Touched
from rowcast.shared.errors import CaptureError

CapturedOf = Callable[[Connection, Any], CapturedTable | None]


class _Pending:
    """A statement between its two events."""

    __slots__ = ("injected", "keys", "new_keys", "reached", "returns", "selected", "sets", "statement", "table")

    def __init__(self, statement: UpdateBase, table: CapturedTable, sets: statements.Parameters) -> None:
        self.statement = statement
        self.table = table
        self.sets = sets
        self.keys: tuple[Key, ...] | None = None
        self.new_keys: tuple[Key, ...] | None = None
        self.reached: list[tuple[CapturedTable, tuple[Key, ...]]] = []
        self.injected = False
        self.returns = False
        self.selected = False


class Changes:
    """Notes the keys of each statement on a captured table."""

    def __init__(self, metadata: sa.MetaData, captured: CapturedOf, announcer: Announcer) -> None:
        self._metadata = metadata
        self._announcer = announcer
        self._captured = captured
        self._waiting: WeakKeyDictionary[Connection, list[_Pending]] = WeakKeyDictionary()
        self._cascades: Cascades | None = None
        self._cascades_of = -1

    def forget(self, connection: Connection) -> None:
        """The transaction is over; a statement that failed has left its own here."""
        self._waiting.pop(connection, None)

    def before(
        self,
        connection: Connection,
        table: CapturedTable,
        statement: UpdateBase,
        sets: statements.Parameters,
        notes: Touched,
    ) -> UpdateBase:
        """Reads the keys, and old rows, that only now can be read; returns the statement to run in its place."""
        pending = _Pending(statement, table, sets)
        if isinstance(statement, Insert):
            self._before_insert(connection, pending)
        elif isinstance(statement, Update | Delete):
            self._before_change(connection, pending)
        else:
            self._announcer.unseen(table.full_name, "a statement of an unknown kind", str(statement))
            return statement
        _see_old_rows(connection, pending, notes)
        self._waiting.setdefault(connection, []).append(pending)
        return pending.statement

    def after(self, connection: Connection, statement: UpdateBase, result: CursorResult[Any], notes: Touched) -> None:
        """Notes the keys that the statement, now executed, has changed."""
        waiting = self._waiting.get(connection, [])
        for i, pending in enumerate(waiting):
            if pending.statement is statement:
                del waiting[i]
                self._after_change(notes, pending, result)
                return

    def failed(self, connection: Connection, notes: Touched) -> None:
        """A statement with many parameter sets may have changed some rows before it failed, and on most engines the
        transaction can go on: what it may have changed is looked at again at commit."""
        for pending in self._waiting.pop(connection, []):
            inserting = isinstance(pending.statement, Insert)
            keys = pending.keys
            if isinstance(pending.statement, Insert):
                keys = statements.given_keys(pending.statement, pending.table.key_columns, pending.sets)
            if keys is None:
                self._announcer.unseen(pending.table.full_name, "a failed INSERT of rows", str(pending.statement))
            else:
                notes.note(pending.table, Touch.INSERT if inserting else Touch.UPDATE, keys, locked=False)

    def _before_insert(self, connection: Connection, pending: _Pending) -> None:
        statement, table = pending.statement, pending.table
        assert isinstance(statement, Insert)
        if statements.replaces(statement):
            self._announcer.unseen(table.full_name, "REPLACE, which may delete other rows,", str(statement))
        if statements.has_own_returning(statement) or statements.names_rows_by_itself(
            statement, table.key_columns, pending.sets
        ):
            return
        if connection.dialect.insert_returning and (
            len(pending.sets) == 1 or connection.dialect.insert_executemany_returning
        ):
            pending.injected = True
            pending.statement = statement.returning(*table.key_columns)
        else:
            self._announcer.unseen(table.full_name, "an INSERT whose keys are not returned", str(statement))

    def _before_change(self, connection: Connection, pending: _Pending) -> None:
        statement, table, sets = pending.statement, pending.table, pending.sets
        assert isinstance(statement, Update | Delete)
        deleting = isinstance(statement, Delete)
        rekeying = isinstance(statement, Update) and statements.changes_key(statement, table.key_columns, sets)
        condition = statements.key_condition(statement, table.key_columns)
        cascading = (deleting or rekeying) and bool(self._foreign_keys().of(table.table, delete=deleting))
        if condition is not None and not cascading:
            pending.keys = condition.keys(sets)
        else:
            pending.keys = self._keys_to_change(connection, pending, rekeying, cascading)
        if rekeying:
            if condition is not None and isinstance(statement, Update) and pending.new_keys is None:
                pending.new_keys = statements.new_keys(statement, table.key_columns, sets, condition.keys(sets))
            if pending.new_keys is None:
                self._return_keys(connection, pending)
        if cascading:
            assert pending.keys is not None
            if rekeying:
                self._warn_of_rekeyed_children(table)
            for child, keys in self._foreign_keys().reach(connection, table.table, pending.keys, delete=deleting):
                captured = self._captured(connection, child)
                if captured is not None:
                    pending.reached.append((captured, keys))
        if pending.keys is None:
            self._return_keys(connection, pending)

    def _keys_to_change(
        self, connection: Connection, pending: _Pending, rekeying: bool, cascading: bool
    ) -> tuple[Key, ...] | None:
        """The keys read before the statement, locked; None if the statement itself can return them."""
        statement = pending.statement
        assert isinstance(statement, Update | Delete)
        dialect = connection.dialect
        can_return = dialect.delete_returning if isinstance(statement, Delete) else dialect.update_returning
        one_set = len(pending.sets) == 1
        seen_first = rekeying or cascading or pending.table.before
        if can_return and one_set and not (seen_first or statements.has_own_returning(statement)):
            return None
        pending.selected = True
        if isinstance(statement, Update) and rekeying and one_set and not can_return:
            old, pending.new_keys = statements.select_rekeyed(
                connection, statement, pending.table.key_columns, pending.sets[0]
            )
            return old
        return statements.select_keys(connection, statement, pending.table.key_columns, pending.sets)

    def _return_keys(self, connection: Connection, pending: _Pending) -> None:
        statement = pending.statement
        assert isinstance(statement, Update | Delete)
        can_return = (
            connection.dialect.delete_returning
            if isinstance(statement, Delete)
            else connection.dialect.update_returning
        )
        if not can_return or statements.has_own_returning(statement) or len(pending.sets) > 1:
            self._announcer.unseen(pending.table.full_name, "an UPDATE that computes new keys", str(statement))
            return
        pending.returns = True
        if not statements.has_return_defaults(statement):
            pending.statement = statement.return_defaults(*pending.table.key_columns)

    def _after_change(self, notes: Touched, pending: _Pending, result: CursorResult[Any]) -> None:
        if isinstance(pending.statement, Insert):
            self._note_inserted(notes, pending, result)
            return
        touch = Touch.DELETE if isinstance(pending.statement, Delete) else Touch.UPDATE
        keys = pending.keys
        returned = statements.returned_keys(result, pending.table.key_columns) if pending.returns else None
        if keys is None:
            notes.note(pending.table, touch, returned or (), locked=True)
        elif pending.selected:
            if result.rowcount > len(keys):
                raise CaptureError(
                    f"a statement changed {result.rowcount} rows of {pending.table.full_name}, of which only "
                    f"{len(keys)} were there when their keys were read just before: others added rows meanwhile. "
                    "Nothing is committed; run the transaction again."
                )
            notes.note(pending.table, touch, keys, locked=True)
        else:
            # A key that the statement did not find was not changed, and is not locked.
            notes.note(pending.table, touch, keys, locked=result.rowcount == len(set(keys)))
        new = pending.new_keys if pending.new_keys is not None else returned if keys is not None else None
        if new is not None:
            old = set(keys or ())
            notes.note(pending.table, Touch.INSERT, [k for k in new if k not in old], locked=True)
        for child, reached in pending.reached:
            notes.note(child, Touch.UPDATE, reached, locked=True)

    def _note_inserted(self, notes: Touched, pending: _Pending, result: CursorResult[Any]) -> None:
        statement, table = pending.statement, pending.table
        assert isinstance(statement, Insert)
        # An upsert may have updated: then the row was there before.
        touch = Touch.UPDATE if statements.is_upsert(statement) else Touch.INSERT
        keys: Sequence[Key] | None
        if pending.injected:
            keys = [tuple(row) for row in result.all()]
        elif statements.has_own_returning(statement):
            keys = statements.peek_returned_keys(result, table.key_columns)
        else:
            keys = statements.inserted_keys(statement, result, table.key_columns, pending.sets)
        if keys is None:
            self._announcer.unseen(table.full_name, "an INSERT that does not return the new rows' keys", str(statement))
            return
        notes.note(table, touch, keys, locked=True)

    def _warn_of_rekeyed_children(self, table: CapturedTable) -> None:
        for constraint in self._foreign_keys().of(table.table, delete=False):
            if set(constraint.columns) & set(constraint.table.primary_key.columns):
                what = f"ON UPDATE from {table.full_name} into a key"
                self._announcer.unseen(constraint.table.fullname, what, "ON UPDATE CASCADE")

    def _foreign_keys(self) -> Cascades:
        if self._cascades is None or self._cascades_of != len(self._metadata.tables):
            self._cascades_of = len(self._metadata.tables)
            self._cascades = Cascades(self._metadata)
        return self._cascades


def _see_old_rows(connection: Connection, pending: _Pending, notes: Touched) -> None:
    statement = pending.statement
    if isinstance(statement, Insert):
        if pending.table.before and statements.is_upsert(statement):
            notes.see(pending.table, rows_in_the_way(connection, pending.table, statement, pending.sets))
        return
    for table, keys in ((pending.table, pending.keys or ()), *pending.reached):
        if table.before:
            notes.see(table, old_rows(connection, table, keys))
