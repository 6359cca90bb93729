"""The keys of the rows that an INSERT brings, and of those that an upsert changes or a REPLACE deletes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.sql.dml import Insert, UpdateBase

from rowcast.producer import ctes, inserts, results, statements
from rowcast.producer.announcements import Announcer
from rowcast.producer.followers import Followers
from rowcast.producer.pending import Inserted, Pending
from rowcast.producer.touched import Key, Touch, Touched


class InsertKeys:
    """One engine's."""

    def __init__(self, followers: Followers, announcer: Announcer) -> None:
        self._followers = followers
        self._announcer = announcer

    def before(
        self, connection: Connection, pending: Pending, statement: Insert
    ) -> list[tuple[UpdateBase, Mapping[str, Any]]] | None:
        """Has the statement bring the keys back; returns it as several if it must be executed so."""
        columns, dialect = pending.key_columns, connection.dialect
        if pending.setting is not None:
            pass
        elif statements.has_own_returning(statement):
            self._see_own_returning(pending, statement)
        elif not inserts.names_rows_by_itself(statement, columns, pending.sets) or inserts.draws_a_key_for_zero(
            statement, columns, pending.sets, dialect
        ):
            if dialect.insert_returning and (len(pending.sets) == 1 or dialect.insert_executemany_returning):
                pending.inserted = Inserted.INJECTED
                pending.statement = statement.returning(*columns)
            else:
                singles = inserts.single_rows(statement, pending.sets)
                if singles is None:
                    pending.unseen(self._announcer, "an INSERT from a SELECT whose keys are not returned")
                elif len(singles) > 1:
                    return list(singles)
        self._see_conflicts(connection, pending, statement)
        return None

    def _see_own_returning(self, pending: Pending, statement: Insert) -> None:
        columns = pending.key_columns
        if inserts.returns_keys(statement, columns):
            pending.inserted = Inserted.IN_OWN_RETURNING
        elif inserts.is_upsert(statement) or inserts.given_keys(statement, columns, pending.sets) is None:
            if inserts.is_read_by_the_orm(statement):
                pending.inserted = Inserted.APPENDED
            else:
                pending.inserted = Inserted.ADDED
                pending.statement = statement.returning(*columns)

    def _see_conflicts(self, connection: Connection, pending: Pending, statement: Insert) -> None:
        """Reads the rows in the way, where the keys that come back do not tell, or old rows are wanted."""
        replaces = inserts.replaces(statement)
        upserts = inserts.is_upsert(statement)
        assigned = inserts.conflict_assigns(statement)
        table, cascades = pending.table.table, self._followers.cascades
        constraints = cascades.of_delete(table) if replaces else cascades.of_update(table, assigned)
        rekeys = any(str(c.name) in assigned for c in pending.key_columns)
        decides = bool(replaces or rekeys or constraints or (upserts and not connection.dialect.insert_returning))
        if not decides and not (upserts and pending.stored.before):
            return
        pending.refuse_to_read_through_dml()
        try:
            keys = inserts.conflicting_keys(connection, statement, pending.key_columns, pending.sets, pending.options)
        except inserts.UnknownValueError as unknown:
            if decides:
                what = f"a REPLACE or upsert for which {unknown.column!r} is not known beforehand"
                pending.unseen(self._announcer, what)
            return
        pending.reached = [*pending.reached, (pending.stored, keys)]
        self._followers.see(connection, pending, constraints, keys, delete=replaces)

    def after(self, connection: Connection, pending: Pending, result: CursorResult[Any], notes: Touched) -> None:
        """Notes the keys."""
        statement, columns = pending.statement, pending.key_columns
        assert isinstance(statement, Insert)
        for table, reached in pending.reached:
            notes.note(table, Touch.UPDATE, reached, locked=True)
        # An upsert may have updated: then the row was there before.
        touch = Touch.UPDATE if inserts.is_upsert(statement) else Touch.INSERT
        keys = self._keys(connection, pending, statement, result)
        if keys is None:
            pending.unseen(self._announcer, "an INSERT that does not return the new rows' keys")
        else:
            notes.note(pending.stored, touch, keys, locked=True)
        if pending.inserted is Inserted.ADDED:
            results.hide_last_columns(result, len(columns))

    def _keys(
        self, connection: Connection, pending: Pending, statement: Insert, result: CursorResult[Any]
    ) -> Sequence[Key] | None:
        columns = pending.key_columns
        if pending.setting is not None:
            return ctes.stored_keys(connection, pending.setting, columns)
        match pending.inserted:
            case Inserted.INJECTED:
                keys = [tuple(row) for row in result.all()]
                results.set_rowcount(result, len(keys))
                return keys
            case Inserted.IN_OWN_RETURNING:
                return results.peek_returned_keys(result, columns)
            case Inserted.ADDED | Inserted.APPENDED:
                return results.peek_last_columns(result, columns)
            case Inserted.REPORTED:
                return pending.keys or inserts.inserted_keys(statement, result, columns, pending.sets)
