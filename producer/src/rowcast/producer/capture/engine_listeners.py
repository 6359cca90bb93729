"""Listen to an engine: note the rows that transactions change, and drain the notes into the outbox at commit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from operator import attrgetter
from typing import Any

from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from rowcast.producer.capture.deferred_triggers import DeferredTriggers
from rowcast.producer.capture.dml.engine_scope import EngineScope
from rowcast.producer.capture.dml.hidden_rows import execute_one_by_one
from rowcast.producer.capture.drain.bulk_update import BulkUpdate
from rowcast.producer.capture.drain.outbox_writer import OutboxWriter
from rowcast.producer.capture.notes.open_transactions import OpenTransactions
from rowcast.producer.capture.notes.strictness import StrictnessRule
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from rowcast.producer.capture.other_schemas import OtherSchemas
from rowcast.producer.capture.shape_writer import ShapeWriter
from rowcast.producer.capture.statement_listeners import StatementListeners
from rowcast.producer.capture.table_lookup import TableLookup
from rowcast.producer.capture.transaction_check import TransactionCheck
from rowcast.producer.capture.transaction_context import TransactionContext
from rowcast.producer.capture.transaction_ends import TransactionEnds
from rowcast.producer.database import live_listeners, raw_execution
from rowcast.producer.database.dialects import CaptureDialect, capture_dialect, find_capture_dialect
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT, UNTRANSLATED
from rowcast.producer.outbox.capture_mode import TriggerCapturedTables
from rowcast.producer.outbox.schema import OutboxTables
from rowcast.producer.tables.captured import CapturedTable, CapturedTables

# "begin" is left out, because an implicit transaction begins after before_execute.
_TRANSACTION_EVENTS = (
    "rollback", "commit", "prepare_twophase", "commit_twophase", "rollback_twophase",
    "savepoint", "rollback_savepoint", "release_savepoint",
)  # fmt: skip

_STATEMENT_EVENTS = ("before_execute", "after_execute", "before_cursor_execute", "handle_error")

_REPLACING_EVENTS = ("before_execute", "before_cursor_execute")
"""Events whose listeners return the statement to execute."""

_TABLE = attrgetter("table")

_MAX_NOTED_KEYS = 100_000
"""The number of keys that a transaction may keep in memory. More keys go to the outbox before the transaction ends."""


class EngineListeners:
    """Note and drain an engine's transactions. Thread-safe, because each connection has separate notes.

    ``on_drained``: called after each write to the outbox.
    """

    def __init__(
        self,
        engine: Engine,
        tables: CapturedTables,
        outbox: OutboxTables,
        strictness: StrictnessRule,
        context: TransactionContext,
        on_drained: Callable[[], None],
    ) -> None:
        self.engine = engine
        self._context = context
        self._on_drained = on_drained
        self._outbox = outbox
        self._strictness = strictness
        self._transactions = OpenTransactions()
        self._deferred = DeferredTriggers()
        self._other_schemas = OtherSchemas(self._transactions)
        self._ends = TransactionEnds(self._drain_before_end)
        self._set_tables(tables)
        self._statements = StatementListeners(
            self._scope_of(tables),
            self._transactions,
            BulkUpdate(outbox.outbox, engine.dialect, self._may_write_now),
            TransactionCheck(self._transactions, self._ends),
            self._ends,
            self._other_schemas,
            self._bound_memory,
            self._drain_late,
        )
        # SQLAlchemy calls the methods of StatementListeners directly, because every statement needs the calls.
        self._events: dict[str, Callable[..., Any]] = {
            **{name: getattr(self, f"_{name}") for name in _TRANSACTION_EVENTS},
            **{name: getattr(self._statements, name) for name in _STATEMENT_EVENTS},
        }
        dialect = find_capture_dialect(engine.dialect)
        if dialect is not None and (dialect.executes_one_by_one or dialect.upserts_a_row_once):
            self._events["do_executemany"] = self._do_executemany

    def _set_tables(self, tables: CapturedTables) -> None:
        self._by_triggers = TriggerCapturedTables(self._outbox.shape)
        self.lookup = TableLookup(tables, self._by_triggers, self._other_schemas, self.engine.dialect)
        self._shapes = ShapeWriter(self._outbox, tables, self.lookup.find_untranslated)

    def replace_tables(self, tables: CapturedTables) -> None:
        """Capture other definitions of the tables from the next statement on."""
        self._set_tables(tables)
        self._statements.replace_scope(self._scope_of(tables))

    def _scope_of(self, tables: CapturedTables) -> EngineScope:
        return EngineScope(
            tables.metadata, self._outbox, self.lookup.find_captured, self.lookup.find_declared, self._strictness
        )

    # The dialect and the drain are made at first use, because an application may use engines without a capture dialect
    # for tables without capture.

    @cached_property
    def _dialect(self) -> CaptureDialect:
        return capture_dialect(self.engine.dialect)

    @cached_property
    def _drain(self) -> OutboxWriter:
        return OutboxWriter(self._outbox, self.engine.dialect)

    # -- installing

    def install(self) -> None:
        """Start listening."""
        for name, listener in self._events.items():
            live_listeners.listen(self.engine, name, listener, retval=name in _REPLACING_EVENTS)

    def uninstall(self) -> None:
        """Stop listening. The notes of open transactions are not written any more."""
        for name, listener in self._events.items():
            live_listeners.remove(self.engine, name, listener)

    def current_schema(self, connection: Connection, name: str) -> str | None:
        """Return the schema to which SQL text has moved a table without a schema, or None."""
        if not self._other_schemas.may_be_changed(connection):
            return None
        return self._dialect.schema_of(connection, name)[0]

    def flush(
        self, connection: Connection, *, last: bool = False, mark: bool | None = None, commit: bool = False
    ) -> None:
        """Drain the notes of the connection's transaction into the outbox.

        ``last``: the transaction ends now. ``mark``: mark the last outbox row as the last of the transaction, the
        default at the end. ``commit``: COMMIT comes next, and may be sent along with the last outbox row. Raises
        CaptureError if a statement of the transaction was refused.
        """
        notes = self._transactions.get(connection)
        if notes is None:
            return
        if notes.may_have_ended:
            self._ends.settle(connection, notes)
        notes.raise_refusal()
        if last:
            if notes.expected is not None or notes.pending:
                self._statements.fail_unreported(connection, notes)
            if notes.outbox_written:
                self._add_context_to_written_rows(connection)
        if not notes.entries:
            return
        if last:
            self._deferred.run(connection)
        mark = last if mark is None else mark
        if raw_execution.is_translated(connection):
            with raw_execution.untranslated(connection):
                self._write(connection, notes, last=last, mark=mark, commit=commit)
        else:
            self._write(connection, notes, last=last, mark=mark, commit=commit)

    def _write(self, connection: Connection, notes: TransactionNotes, *, last: bool, mark: bool, commit: bool) -> None:
        self._dialect.ensure_functions(connection)
        if not self._shapes.are_committed(map(_TABLE, notes.entries)):
            self._shapes.write(connection, notes, notes.fold())
        # With triggers no row is marked as the last, because a deferred trigger may write a later row.
        mark_last = mark and not self._by_triggers.names(connection)

        def transaction_id() -> str:
            return self._by_triggers.transaction_id(connection) or notes.transaction_id

        context = self._context.document()
        if notes.unseen_changes_until or not self._drain.write_fast(
            connection, notes.entries, transaction_id, context, last=mark_last, commit=commit
        ):
            folded, images = notes.fold(), notes.before_images()
            self._drain.write_full(connection, folded, images, transaction_id, context, last=mark_last, commit=commit)
        if last and self._dialect.has_transaction_token:
            self._by_triggers.seal(connection)
        notes.clear_drained()
        self._on_drained()

    def write_shapes(self, connection: Connection) -> None:
        """Write the missing shapes of all existing tables, in the connection's transaction."""
        self._shapes.write(connection, TransactionNotes(), {})

    def _may_write_now(self, connection: Connection, table: CapturedTable) -> bool:
        """Return whether the outbox may take the table's changes before the transaction ends.

        The shape of the table must be committed, the transaction must have no context, and no trigger may change the
        rows at its end.
        """
        return (
            self._shapes.are_committed([table])
            and self._context.document() is None
            and not self._deferred.exist(connection)
        )

    def _add_context_to_written_rows(self, connection: Connection) -> None:
        """Add the context, which the transaction may have got since, to outbox rows written by statements."""
        context = self._context.document()
        if context is not None:
            outbox = self._outbox.outbox
            own = outbox.c.tx == self._dialect.transaction_id
            statement = outbox.update().where(own, outbox.c.context.is_(None)).values(context=context)
            connection.execute(statement, execution_options={**UNTRANSLATED, **INTERNAL_STATEMENT})
        self._on_drained()

    # -- the transaction's life

    def _rollback(self, connection: Connection) -> None:
        self._transactions.discard(connection)

    def _rollback_twophase(self, connection: Connection, xid: Any, is_prepared: bool) -> None:
        self._transactions.discard(connection)

    def _commit(self, connection: Connection) -> None:
        is_followed = self._is_followed(connection, "commit")
        try:
            self.flush(connection, last=True, mark=not is_followed, commit=not is_followed)
        except BaseException as error:
            if isinstance(error, exc.DBAPIError) and self._dialect.is_aborted(error):
                # The application goes on after a failed statement. COMMIT rolls back, without an error.
                return
            # SQLAlchemy considers a transaction with a failed commit as ended. The next user of the connection would
            # get the open changes, and would commit the changes without their outbox row.
            self._roll_back(connection)
            raise
        finally:
            self._discard(connection, is_followed)

    def _is_followed(self, connection: Connection, name: str) -> bool:
        """Return whether another listener of the event can write between this listener and the end."""
        *_, last = getattr(connection.dispatch, name)
        return bool(last != self._events[name])

    def _discard(self, connection: Connection, is_followed: bool) -> None:
        if is_followed:
            self._transactions.discard_drained(connection)
        else:
            self._transactions.discard(connection)

    def _drain_late(self, connection: Connection) -> None:
        """Drain a statement of a listener that runs between this capture's listener and COMMIT."""
        self.flush(connection, last=True, mark=False)
        self._transactions.discard(connection)

    def _drain_before_end(self, connection: Connection) -> None:
        """Drain before a statement that may end the transaction."""
        self.flush(connection, last=True, mark=False)

    def _roll_back(self, connection: Connection) -> None:
        if connection.invalidated:
            # The connection is lost, and the server rolls back.
            return
        try:
            connection.dialect.do_rollback(connection.connection)
        except connection.dialect.loaded_dbapi.Error:
            # The connection cannot be used again. The server rolls back when the connection is closed.
            connection.invalidate()

    def _prepare_twophase(self, connection: Connection, xid: Any) -> None:
        # A failure leaves the transaction active, and the owner rolls back.
        is_followed = self._is_followed(connection, "prepare_twophase")
        self.flush(connection, last=True, mark=not is_followed)
        self._discard(connection, is_followed)

    def _commit_twophase(self, connection: Connection, xid: Any, is_prepared: bool) -> None:
        if not is_prepared:
            self._commit(connection)

    def _savepoint(self, connection: Connection, name: str | None) -> None:
        notes = self._transactions.get_or_create(connection)
        self._ends.settle(connection, notes)
        dialect = find_capture_dialect(connection.dialect)
        begins = dialect is not None and dialect.begins_at_savepoint(connection.connection)
        notes.savepoint(raw_execution.savepoint_name(connection, name), begins_transaction=begins)

    def _rollback_savepoint(self, connection: Connection, name: str, context: Any) -> None:
        notes = self._transactions.get_or_create(connection)
        self._ends.settle(connection, notes)
        notes.rollback_to(name)
        # The rollback also undoes SET search_path.
        notes.schemas = None

    def _release_savepoint(self, connection: Connection, name: str, context: Any) -> None:
        notes = self._transactions.get_or_create(connection)
        self._ends.settle(connection, notes)
        if notes.begins_with(name):
            # The release commits.
            self.flush(connection, last=True)
            self._transactions.discard(connection)
        else:
            notes.release(name)

    # -- statements

    def _do_executemany(self, cursor: Any, sql: str, parameter_sets: Any, context: Any) -> bool:
        # A bound method is a listener of one capture alone. A function would be removed together with the first
        # capture.
        return execute_one_by_one(cursor, sql, parameter_sets, context)

    def _bound_memory(self, connection: Connection, notes: TransactionNotes) -> None:
        """Drain the notes of a huge transaction before it ends.

        The images cannot become outdated, because the rows are locked until the transaction ends, unless a deferred
        trigger changes them then.
        """
        if notes.key_count > _MAX_NOTED_KEYS and not notes.in_savepoint and not self._deferred.exist(connection):
            self.flush(connection)
