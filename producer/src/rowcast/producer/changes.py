"""Learning which rows each DML statement changes: before it runs, from it, and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.sql.dml import Delete, Insert, Update, UpdateBase
from sqlalchemy.sql.selectable import CTE

from rowcast.producer import ctes, inserts, results, statements
from rowcast.producer.announcements import Announcer
from rowcast.producer.change_keys import ChangeKeys
from rowcast.producer.followers import Followers
from rowcast.producer.insert_keys import InsertKeys
from rowcast.producer.pending import TRANSLATE, CapturedOf, Inserted, Pending
from rowcast.producer.plain import PlainStatements
from rowcast.producer.returned_images import ReturnedImages
from rowcast.producer.statements import Parameters
from rowcast.producer.tables import CapturedTable
from rowcast.producer.touched import Expected, Note, Touch, Touched
from rowcast.shared.errors import CaptureError


class Changes:
    """Notes the keys of each statement on a captured table."""

    def __init__(
        self,
        metadata: sa.MetaData,
        outbox: sa.Table,
        captured: CapturedOf,
        announcer: Announcer,
        images: ReturnedImages,
        may_write: Callable[[CapturedTable], bool],
    ) -> None:
        self._outbox = outbox
        self._images = images
        self._may_write = may_write
        self._announcer = announcer
        self._captured = captured
        followers = Followers(metadata, captured, announcer)
        self._plain = PlainStatements(followers)
        self._insert_keys = InsertKeys(followers, announcer)
        self._change_keys = ChangeKeys(followers, captured)

    def expect(self, statement: UpdateBase, sets: Parameters, notes: Touched) -> CapturedTable | None:
        """All that ``before`` does for a statement that was met before and needs no help; None if this is none."""
        plan = self._plain.known(statement)
        # Of another statement, which has failed, or in whose midst this one is executed.
        if plan is None or notes.expected is not None:
            return None
        keys = plan.keys(sets)
        if keys is None:
            return None
        notes.expected = Expected(statement, plan.table, plan.touch, keys)
        return plan.table

    def as_expected(self, result: CursorResult[Any], notes: Touched) -> None:
        """All that ``after`` does for such a statement."""
        assert notes.expected is not None
        _, table, touch, keys = notes.expected
        notes.expected = None
        # A key that the statement did not find was not changed, and is not locked.
        locked = touch is Touch.INSERT or result.rowcount == (1 if len(keys) == 1 else len(set(keys)))
        notes.notes.append(Note(table, touch, keys, locked))
        notes.keys += len(keys)

    def before(
        self,
        connection: Connection,
        statement: UpdateBase,
        stored: CapturedTable,
        sets: Parameters,
        execution_options: Mapping[str, Any],
        notes: Touched,
    ) -> tuple[UpdateBase, Parameters]:
        """Reads the keys, and old rows, that only now can be read; returns the statement and the parameters to run in
        their place. ``stored``: its table, under its ``schema_translate_map``.

        Raises CaptureError for what cannot be captured at all, and as Announcer for what cannot be told.
        """
        translation = execution_options.get(TRANSLATE)
        table = self._captured(connection, statements.table_of(statement), None) if translation else stored
        assert table is not None
        pending = Pending(statement, table, stored, sets, {TRANSLATE: translation})
        if self._plain.recognise(pending, connection.dialect):
            notes.waiting.append(pending)
            return statement, sets
        if isinstance(statement, Insert):
            singles = self._insert_keys.before(connection, pending, statement)
        elif isinstance(statement, Update | Delete):
            singles = self._change_keys.before(connection, pending, statement)
        else:
            pending.unseen(self._announcer, "a statement of an unknown kind")
            return statement, sets
        if singles is not None:
            return self._one_by_one(connection, singles, stored, execution_options, notes)
        pending.see_old_rows(connection)
        pending.wrapped = (
            # Nothing but the rows that the statement itself names, and nothing that is to be told before them.
            (isinstance(statement, Update) and pending.appends and pending.keys is None)
            and not (pending.reached or notes.notes)
            and self._may_write(stored)
            and self._images.can(connection, stored)
        )
        notes.waiting.append(pending)
        return pending.statement, pending.sets

    def before_cte(
        self,
        connection: Connection,
        sql: str,
        cte: CTE,
        parameters: Mapping[str, Any],
        options: Mapping[str, Any],
        notes: Touched,
    ) -> str:
        """The same for DML in a CTE of the statement that is about to run; returns the text to run in its place."""
        statement: Any = cte.element
        translation = options.get(TRANSLATE)
        table = self._captured(connection, statements.table_of(statement), None)
        stored = self._captured(connection, statements.table_of(statement), translation)
        if table is None or stored is None:
            return sql
        pending = Pending(statement, table, stored, [parameters], {TRANSLATE: translation})
        key = ctes.returned_key(cte, pending.key_columns)
        setting = f"rowcast.keys_{len(notes.waiting)}"
        storing = None if key is None else ctes.storing(sql, cte, key, setting, self._outbox, connection.dialect)
        if storing is None:
            pending.unseen(self._announcer, "DML in a common table expression that does not return the primary key")
            return sql
        pending.setting = setting
        if isinstance(statement, Insert):
            self._insert_keys.before(connection, pending, statement)
        else:
            self._change_keys.before(connection, pending, statement)
        pending.see_old_rows(connection)
        notes.waiting.append(pending)
        return storing

    def after(
        self, connection: Connection, statement: UpdateBase | None, result: CursorResult[Any], notes: Touched
    ) -> bool:
        """Notes the keys that the statement, now executed, has changed. False if it was never seen before."""
        own = notes.take(statement)
        for pending in own:
            pending.keep_old_rows(notes)
            try:
                if isinstance(pending.statement, Insert):
                    self._insert_keys.after(connection, pending, result, notes)
                else:
                    self._change_keys.after(connection, pending, result, notes)
            except CaptureError as error:
                # The application may go on all the same: then its transaction must not be committed.
                notes.refuse(error)
                raise
            if pending.rows_before:
                results.set_rowcount(result, result.rowcount + pending.rows_before)
        return any(pending.statement is statement for pending in own)

    def failed(self, connection: Connection, statement: UpdateBase | None, notes: Touched, *, in_part: bool) -> None:
        """The statement has failed. ``in_part``: it has many parameter sets, and may have changed some rows before; on
        most engines the transaction can go on, and what it may have changed is looked at again at commit."""
        failed, expected = notes.take(statement), notes.expected
        if expected is not None and expected.statement is statement:
            notes.expected = None
        if not in_part or connection.dialect.name == "postgresql":
            # Nothing of it is left; in PostgreSQL the transaction can only be rolled back, if only to a savepoint.
            return
        if expected is not None and expected.statement is statement:
            notes.note(
                expected.table,
                Touch.INSERT if expected.touch is Touch.INSERT else Touch.UPDATE,
                expected.keys,
                locked=False,
            )
        for pending in failed:
            pending.keep_old_rows(notes)
            keys = pending.keys
            inserting = isinstance(pending.statement, Insert)
            if isinstance(pending.statement, Insert):
                keys = inserts.given_keys(pending.statement, pending.key_columns, pending.sets)
            if keys is None:
                if len(pending.sets) <= statements.rows_in_a_batch(connection.dialect, pending.sets[0]):
                    # One statement, of which nothing is left.
                    continue
                pending.unseen(self._announcer, "a failed INSERT of several rows")
            else:
                notes.note(pending.stored, Touch.INSERT if inserting else Touch.UPDATE, keys, locked=False)

    def untold(self, connection: Connection, notes: Touched, statement: UpdateBase | None = None) -> None:
        """Statements, or this one, that began, and neither their end nor their failure was told: they have failed.

        On MariaDB and MySQL SQLAlchemy's reflection leaves an option on the application's connection that hides errors
        from all listeners; and what fails before it reaches the database is not told anywhere.
        """
        expected = notes.expected
        if expected is not None and (statement is None or expected.statement is statement):
            self.failed(connection, expected.statement, notes, in_part=len(expected.keys) > 1)
        for pending in notes.waiting:
            if statement is None or pending.statement is statement:
                self.failed(connection, pending.statement, notes, in_part=len(pending.sets) > 1)

    def with_keys(self, connection: Connection, sql: str, context: Any, notes: Touched, *, alone: bool) -> str:
        """The text of the statement that is about to run, with what brings its keys back; mostly as it is. ``alone``:
        it has no CTEs."""
        for pending in notes.waiting:
            if not (pending.appends or pending.inserted is Inserted.APPENDED):
                continue
            if pending.statement is not statements.dml_of(context.invoked_statement):
                continue
            preparer = connection.dialect.identifier_preparer
            if pending.inserted is Inserted.APPENDED:
                return sql + "".join(f", {preparer.quote(column.name)}" for column in pending.key_columns)
            if pending.appends and context.compiled.effective_returning:
                # The ORM's own, to refresh its objects: it has the keys.
                pending.appends, pending.returns = False, True
            # Without parameters the driver takes a text as it is: ours is made for one that has some.
            pending.wrapped = pending.wrapped and pending.appends and alone and not context.no_parameters
            if pending.wrapped:
                return self._images.wrapped(sql, pending.stored)
            if pending.appends:
                columns = pending.stored.key_columns
                names = (preparer.format_column(column, use_table=True, use_schema=True) for column in columns)
                return f"{sql} RETURNING {', '.join(names)}"
        return sql

    def _one_by_one(
        self,
        connection: Connection,
        singles: Sequence[tuple[UpdateBase, Mapping[str, Any]]],
        stored: CapturedTable,
        execution_options: Mapping[str, Any],
        notes: Touched,
    ) -> tuple[UpdateBase, Parameters]:
        """Executes all but the last, and returns the last: of one row at a time, the database tells the key."""
        rows = 0
        for statement, parameters in singles[:-1]:
            rows += connection.execute(statement, dict(parameters), execution_options=execution_options).rowcount
        last, parameters = singles[-1]
        prepared = self.before(connection, last, stored, [parameters], execution_options, notes)
        notes.waiting[-1].rows_before = rows
        return prepared
