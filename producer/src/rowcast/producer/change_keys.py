"""The keys of the rows that an UPDATE or DELETE changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.sql.dml import Delete, Update, UpdateBase

from rowcast.producer import ctes, results, statements
from rowcast.producer.followers import Followers
from rowcast.producer.likened import likened_columns
from rowcast.producer.locked_reads import lock_named
from rowcast.producer.pending import TRANSLATE, CapturedOf, Pending
from rowcast.producer.touched import Key, Touch, Touched
from rowcast.shared.errors import CaptureError


class ChangeKeys:
    """One engine's."""

    def __init__(self, followers: Followers, captured: CapturedOf) -> None:
        self._followers = followers
        self._captured = captured

    def before(
        self, connection: Connection, pending: Pending, statement: Update | Delete
    ) -> list[tuple[UpdateBase, Mapping[str, Any]]] | None:
        """Has the statement bring the keys back, or reads them; returns it as several if it must be executed so."""
        columns, sets = pending.key_columns, pending.sets
        table, cascades = pending.table.table, self._followers.cascades
        condition = statements.key_condition(statement, columns)
        computes = rekeys = False
        if isinstance(statement, Update):
            assigned = statements.assigned_columns(statement, sets)
            rekeys = any(str(c.name) in assigned for c in columns)
            if rekeys and condition is not None:
                pending.new_keys = statements.new_keys(statement, columns, sets, condition.keys(sets))
            computes = rekeys and pending.new_keys is None
            if computes and len(sets) > 1:
                return [(statement, parameters) for parameters in sets]
            constraints = cascades.of_update(table, assigned)
            self._see_other_tables(connection, pending, statement)
        else:
            constraints = cascades.of_delete(table)
        if condition is not None and pending.setting is None and not (computes or constraints):
            self._name_keys(connection, pending, condition.keys(sets), leaves=rekeys or isinstance(statement, Delete))
        elif self._can_return(connection, pending, statement) and not (rekeys or constraints or pending.stored.before):
            self._return_keys(connection, pending, statement)
        else:
            self._read_keys(connection, pending, statement, computes)
        if constraints:
            assert pending.keys is not None
            self._followers.see(connection, pending, constraints, pending.keys, delete=isinstance(statement, Delete))
            if isinstance(statement, Update) and cascades.rekeys(constraints):
                pending.rekeyed = constraints
        return None

    def _name_keys(self, connection: Connection, pending: Pending, keys: tuple[Key, ...], *, leaves: bool) -> None:
        """The keys that the parameters name. Of several that are to be gone afterwards, which were there must be known:
        one that was not may be another transaction's by now."""
        several = len(keys) > 1 and connection.dialect.name != "sqlite"
        # A key that a collation takes for the row's own is not the one that is gone.
        if leaves and (several or likened_columns(pending.stored, connection.dialect)):
            pending.selected = True
            keys = tuple(lock_named(connection, pending.stored.key_columns, list(dict.fromkeys(keys))))
        pending.keys = keys

    def _can_return(self, connection: Connection, pending: Pending, statement: Update | Delete) -> bool:
        """Whether the statement itself can bring the keys back, as they are after it."""
        if pending.setting is not None:
            return True
        dialect = connection.dialect
        able = dialect.delete_returning if isinstance(statement, Delete) else dialect.update_returning
        if not able or len(pending.sets) > 1 or statements.has_own_returning(statement):
            return False
        columns = pending.key_columns
        if isinstance(statement, Update) and statements.assigns_values(statement, columns, pending.sets[0]):
            # Of what is given as a value, return_defaults returns nothing.
            return False
        return not statements.has_return_defaults(statement) or statements.returns_keys_by_default(statement, columns)

    def _return_keys(self, connection: Connection, pending: Pending, statement: Update | Delete) -> None:
        if pending.setting is not None or statements.has_return_defaults(statement):
            pending.returns = True
        elif connection.dialect.name == "postgresql":
            pending.appends = True
        else:
            pending.returns = True
            pending.statement = statement.return_defaults(*pending.key_columns)

    def _read_keys(self, connection: Connection, pending: Pending, statement: Update | Delete, computes: bool) -> None:
        """Reads the keys before the statement; the new ones too, unless the statement itself can return them."""
        columns, sets = pending.key_columns, pending.sets
        pending.refuse_to_read_through_dml()
        pending.selected = True
        if computes and not self._can_return(connection, pending, statement):
            assert isinstance(statement, Update)
            pending.foreseen = True
            pending.keys, pending.new_keys = statements.select_rekeyed(
                connection, statement, columns, sets[0], pending.options
            )
            return
        pending.keys = statements.select_keys(connection, statement, columns, sets, pending.options)
        if computes or pending.setting is not None:
            self._return_keys(connection, pending, statement)

    def _see_other_tables(self, connection: Connection, pending: Pending, statement: Update) -> None:
        """MySQL's UPDATE of several tables at once."""
        for table, assigned in statements.other_tables_changed(statement).items():
            other = self._captured(connection, table, pending.options[TRANSLATE])
            if other is None:
                continue
            columns = tuple(table.primary_key.columns)
            if self._followers.cascades.of_update(table, assigned) or any(str(c.name) in assigned for c in columns):
                raise CaptureError(
                    f"an UPDATE of several tables changes the key of {other.full_name}, or a column that foreign keys "
                    "refer to. Change one table at a time."
                )
            keys = statements.select_keys(connection, statement, columns, pending.sets, pending.options)
            pending.reached = [*pending.reached, (other, keys)]
            pending.rows_beside += len(keys)

    def after(self, connection: Connection, pending: Pending, result: CursorResult[Any], notes: Touched) -> None:
        """Notes the keys. Raises CaptureError if they turn out not to be those that were read before."""
        touch = Touch.DELETE if isinstance(pending.statement, Delete) else Touch.UPDATE
        returned, rowcount = None, result.rowcount
        if pending.setting is not None:
            returned = ctes.stored_keys(connection, pending.setting, pending.key_columns)
            rowcount = len(returned)
        elif pending.returns:
            returned = results.returned_keys(result, pending.key_columns)
        elif pending.wrapped:
            rowcount, returned = results.take_counted_keys(result, pending.key_columns)
            notes.written = notes.written or returned is None
        elif pending.appends:
            returned = results.take_keys(result, pending.key_columns)
        for table, reached in pending.reached:
            notes.note(table, Touch.UPDATE, reached, locked=True)
        keys = pending.keys
        if keys is None:
            notes.note(pending.stored, touch, returned or (), locked=True)
            return
        # A key that the statement did not find was not changed, and is not locked.
        notes.note(pending.stored, touch, keys, locked=pending.selected or rowcount == len(set(keys)))
        new = pending.new_keys if pending.new_keys is not None else returned
        if new is not None:
            old = set(keys)
            notes.note(pending.stored, Touch.INSERT, [k for k in new if k not in old], locked=False)
        if pending.rekeyed:
            parents = keys if new is None else new
            for child, moved in self._followers.of(connection, pending, pending.rekeyed, parents, delete=False):
                before = {key for table, found in pending.reached if table is child for key in found}
                notes.note(child, Touch.INSERT, [key for key in moved if key not in before], locked=True)
        if pending.selected:
            self._refuse_what_was_not_read(connection, pending, keys, rowcount)

    def _refuse_what_was_not_read(
        self, connection: Connection, pending: Pending, keys: Sequence[Key], rowcount: int
    ) -> None:
        name = pending.stored.full_name
        if rowcount > len(keys) + pending.rows_beside:
            raise CaptureError(
                f"a statement changed {rowcount} rows of {name}, of which only {len(keys)} were there when their keys "
                "were read just before: others added rows meanwhile. Nothing is committed; run the transaction again."
            )
        if not pending.foreseen:
            return
        new = list(dict.fromkeys(pending.new_keys or ()))
        if len(list(lock_named(connection, pending.stored.key_columns, new))) < len(new):
            raise CaptureError(
                f"an UPDATE of {name} made other primary keys than its expressions had told just before, so its rows "
                "are not known. Nothing is committed; give the keys as values, or let the statement return them."
            )
