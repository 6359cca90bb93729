"""The listeners on one engine: they note which rows its transactions touch, and drain them at commit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, CursorResult, Engine
from sqlalchemy.sql.dml import Delete, Insert, Update, UpdateBase

from rowcast.producer import statements
from rowcast.producer.cascades import Cascades
from rowcast.producer.drain import Drain
from rowcast.producer.outbox import OutboxTables
from rowcast.producer.shape_log import ShapeLog
from rowcast.producer.tables import CapturedTable, wanted
from rowcast.producer.touched import Key, Touch, Touched
from rowcast.shared.errors import CaptureError
from rowcast.shared.images import register_functions

_EVENTS = (
    "before_execute", "after_execute", "before_cursor_execute", "begin", "rollback", "rollback_twophase", "commit",
    "prepare_twophase", "commit_twophase", "savepoint", "rollback_savepoint", "release_savepoint",
)  # fmt: skip

_DML = re.compile(
    r"\b(?:insert\s+(?:ignore\s+)?into|replace\s+into|update|delete\s+from|merge\s+into|truncate(?:\s+table)?|copy)"
    r"\s+(?:only\s+)?((?:[\w$]+|\"[^\"]+\"|`[^`]+`)(?:\.(?:[\w$]+|\"[^\"]+\"|`[^`]+`))*)",
    re.IGNORECASE,
)


class CaptureWarning(UserWarning):
    """A statement changes a captured table in a way that this capture cannot see: its rows will not be published."""


class EngineListeners:
    """Notes and drains one engine's transactions. Thread-safe: each connection has notes of its own."""

    def __init__(
        self, engine: Engine, metadata: sa.MetaData, outbox: OutboxTables, on_drained: Callable[[], None]
    ) -> None:
        self.engine = engine
        self._metadata = metadata
        self._on_drained = on_drained
        self._drain = Drain(outbox, engine.dialect)
        self._shapes = ShapeLog(outbox, metadata, self.captured)
        self._transactions: WeakKeyDictionary[Connection, Touched] = WeakKeyDictionary()
        self._awaiting_keys: WeakKeyDictionary[Connection, list[_Pending]] = WeakKeyDictionary()
        self._tables: dict[tuple[str | None, str], CapturedTable | None] = {}
        self._cascades: Cascades | None = None
        self._cascades_of = -1

    # -- installing

    def install(self) -> None:
        """Starts listening."""
        for name in _EVENTS:
            event.listen(self.engine, name, getattr(self, f"_{name}"), retval=name == "before_execute")

    def uninstall(self) -> None:
        """Stops listening; what open transactions have noted is dropped."""
        for name in _EVENTS:
            event.remove(self.engine, name, getattr(self, f"_{name}"))
        self._transactions.clear()

    def captured(self, connection: Connection, table: Any) -> CapturedTable | None:
        """The captured table that a statement's table is; None if it is not captured."""
        name = (getattr(table, "schema", None), getattr(table, "name", None))
        try:
            return self._tables[name]  # type: ignore[index]
        except KeyError:
            own = self._metadata.tables.get(f"{name[0]}.{name[1]}" if name[0] else str(name[1]))
            found = None
            if own is not None and wanted(own):
                found = CapturedTable(own, connection.dialect, connection.dialect.default_schema_name or "main")
            self._tables[name] = found  # type: ignore[index]
            return found

    def flush(self, connection: Connection) -> None:
        """Writes what the connection's transaction has touched so far into the outbox."""
        touched = self._transactions.get(connection)
        if touched is None or not touched.notes:
            return
        if connection.dialect.name == "sqlite" and "rowcast" not in connection.info:
            register_functions(connection.connection.dbapi_connection)
            connection.info["rowcast"] = True
        folded = touched.fold()
        if not self._shapes.confirmed:
            self._shapes.write(connection, touched, folded)
        self._drain.write(connection, folded)
        touched.notes.clear()
        self._on_drained()

    # -- the transaction's life

    def _begin(self, connection: Connection) -> None:
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        self._transactions.pop(connection, None)
        # A statement that failed has left its own here.
        self._awaiting_keys.pop(connection, None)

    def _rollback(self, connection: Connection) -> None:
        self._forget(connection)

    def _rollback_twophase(self, connection: Connection, xid: Any, is_prepared: bool) -> None:
        self._forget(connection)

    def _commit(self, connection: Connection) -> None:
        try:
            self.flush(connection)
        except BaseException:
            # SQLAlchemy takes a transaction whose commit has failed for ended, and would hand the connection to the
            # next user with these changes still open: they would be committed then, without their outbox row.
            self._roll_back(connection)
            raise
        finally:
            self._forget(connection)

    def _roll_back(self, connection: Connection) -> None:
        try:
            connection.dialect.do_rollback(connection.connection)
        except connection.dialect.loaded_dbapi.Error:
            # A connection that cannot roll back is of no use to anybody; its server rolls back for it.
            connection.invalidate()

    def _prepare_twophase(self, connection: Connection, xid: Any) -> None:
        # A failure leaves the transaction active: its owner rolls it back.
        self.flush(connection)
        self._forget(connection)

    def _commit_twophase(self, connection: Connection, xid: Any, is_prepared: bool) -> None:
        if not is_prepared:
            self._commit(connection)

    def _savepoint(self, connection: Connection, name: str | None) -> None:
        self._notes(connection).savepoint(statements.savepoint_name(connection, name))

    def _rollback_savepoint(self, connection: Connection, name: str, context: Any) -> None:
        self._notes(connection).rollback_to(name)

    def _release_savepoint(self, connection: Connection, name: str, context: Any) -> None:
        self._notes(connection).release(name)

    def _notes(self, connection: Connection) -> Touched:
        notes = self._transactions.get(connection)
        if notes is None:
            notes = self._transactions[connection] = Touched()
        return notes

    # -- statements

    def _before_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, execution_options: Any
    ) -> tuple[Any, Any, Any]:
        if not isinstance(statement, UpdateBase):
            return statement, multiparams, params
        table = self.captured(connection, statements.table_of(statement))
        if table is None:
            return statement, multiparams, params
        self._refuse_what_is_not_atomic(connection, table, execution_options)
        sets = statements.parameter_sets(multiparams, params)
        pending = _Pending(statement, table, sets)
        if isinstance(statement, Insert):
            self._before_insert(connection, pending)
        elif isinstance(statement, Update | Delete):
            self._before_change(connection, pending)
        else:
            return statement, multiparams, params
        self._awaiting_keys.setdefault(connection, []).append(pending)
        return pending.statement, multiparams, params

    def _after_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, execution_options: Any, result: Any
    ) -> None:
        if isinstance(statement, UpdateBase):
            waiting = self._awaiting_keys.get(connection, [])
            for i, pending in enumerate(waiting):
                if pending.statement is statement:
                    del waiting[i]
                    self._after_change(connection, pending, result)
                    break
        for inner in statements.dml_inside(result):
            inner_table = self.captured(connection, statements.table_of(inner))
            if inner_table is not None:
                _warn(inner_table.full_name, "DML inside a common table expression", str(statement))

    def _before_insert(self, connection: Connection, pending: _Pending) -> None:
        statement, table = pending.statement, pending.table
        assert isinstance(statement, Insert)
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
            _warn(table.full_name, "an INSERT whose keys this database does not return", str(statement))

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
            for child, keys in self._foreign_keys().reach(connection, table.table, pending.keys, delete=deleting):
                captured = self.captured(connection, child)
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
        if can_return and one_set and not (rekeying or cascading or statements.has_own_returning(statement)):
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
            _warn(pending.table.full_name, "an UPDATE that computes new keys", str(statement))
            return
        pending.returns = True
        if not statements.has_return_defaults(statement):
            pending.statement = statement.return_defaults(*pending.table.key_columns)

    def _after_change(self, connection: Connection, pending: _Pending, result: CursorResult[Any]) -> None:
        notes = self._notes(connection)
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
            keys = statements.inserted_keys(result, table.key_columns, pending.sets)
        if keys is None:
            _warn(table.full_name, "an INSERT that does not return the new rows' keys", str(statement))
            return
        notes.note(table, touch, keys, locked=True)

    def _before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        compiled = getattr(context, "compiled", None)
        if compiled is not None and not isinstance(compiled.statement, sa.TextClause):
            return
        if context is not None and "rowcast_own" in context.execution_options:
            return
        for name in _DML.findall(statement):
            parts = [part.strip('"`') for part in re.findall(r"\"[^\"]+\"|`[^`]+`|[^.]+", name)]
            for own in self._metadata.tables.values():
                if wanted(own) and own.name.lower() == parts[-1].lower():
                    _warn(own.fullname, "SQL text", statement)

    def _refuse_what_is_not_atomic(self, connection: Connection, table: CapturedTable, execution_options: Any) -> None:
        if connection._is_autocommit_isolation():
            raise CaptureError(
                f"{table.full_name} is captured, and this connection is in AUTOCOMMIT: its changes and their record in "
                "the outbox could not be one transaction. Use a transaction, or uninstall the capture from this engine."
            )
        if execution_options.get("schema_translate_map"):
            _warn(table.full_name, "a statement with schema_translate_map", "schema_translate_map")

    def _foreign_keys(self) -> Cascades:
        if self._cascades is None or self._cascades_of != len(self._metadata.tables):
            self._cascades_of = len(self._metadata.tables)
            self._cascades = Cascades(self._metadata)
        return self._cascades


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


def _warn(table: str, what: str, statement: str) -> None:
    warnings.warn(
        f"not captured: {what} changes {table}, and which rows it changed cannot be told: "
        f"{' '.join(statement.split())[:300]}",
        CaptureWarning,
        stacklevel=2,
    )
