"""The listeners on one engine: they note which rows its transactions touch, and drain them at commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from rowcast.producer import connections
from rowcast.producer.announcements import Announcer
from rowcast.producer.capturing import ByTriggers
from rowcast.producer.connections import OpenTransactions
from rowcast.producer.context import TransactionContext
from rowcast.producer.drain import Drain
from rowcast.producer.locked_reads import AS_STORED, OWN
from rowcast.producer.observer import Observer
from rowcast.producer.outbox import OutboxTables
from rowcast.producer.returned_images import ReturnedImages
from rowcast.producer.shape_log import ShapeLog
from rowcast.producer.sqlite_functions import ensure_functions
from rowcast.producer.tables import CapturedTable, CapturedTables
from rowcast.producer.touched import Touched
from rowcast.producer.translated import TranslatedTables, Translation

# Not "begin": the transaction that a statement begins by itself does so after the statement is seen.
_EVENTS = (
    "rollback", "commit", "prepare_twophase", "commit_twophase", "rollback_twophase",
    "savepoint", "rollback_savepoint", "release_savepoint",
)  # fmt: skip

_OF_STATEMENTS = ("before_execute", "after_execute", "before_cursor_execute", "handle_error")

_REPLACING = ("before_execute", "before_cursor_execute")

_MOST_KEYS = 100_000
"""Noted keys are in memory: beyond this many the outbox takes them before the transaction ends."""


class EngineListeners:
    """Notes and drains one engine's transactions. Thread-safe: each connection has notes of its own."""

    def __init__(
        self,
        engine: Engine,
        tables: CapturedTables,
        outbox: OutboxTables,
        announcer: Announcer,
        context: TransactionContext,
        on_drained: Callable[[], None],
    ) -> None:
        self.engine = engine
        self._wanted = tables
        self._metadata = tables.metadata
        self._context = context
        self._on_drained = on_drained
        self._outbox = outbox
        self._drain = Drain(outbox, engine.dialect)
        self._shapes = ShapeLog(outbox, tables, self.captured)
        self._by_triggers = ByTriggers(outbox.shape)
        self._transactions = OpenTransactions()
        self._observer = Observer(
            tables.metadata, outbox.outbox, self.captured, self._transactions, self._bound_memory, announcer,
            ReturnedImages(outbox.outbox, engine.dialect), self._may_write_now,
        )  # fmt: skip
        # The observer's methods themselves: they are called for every statement.
        self._events: dict[str, Callable[..., Any]] = {
            **{name: getattr(self, f"_{name}") for name in _EVENTS},
            **{name: getattr(self._observer, name) for name in _OF_STATEMENTS},
        }
        self._translated = TranslatedTables(tables, engine.dialect)
        self._tables: dict[tuple[str | None, str], CapturedTable | None] = {}

    # -- installing

    def install(self) -> None:
        """Starts listening."""
        for name, listener in self._events.items():
            event.listen(self.engine, name, listener, retval=name in _REPLACING)

    def uninstall(self) -> None:
        """Stops listening; nobody asks any more for what open transactions have noted."""
        for name, listener in self._events.items():
            event.remove(self.engine, name, listener)

    def captured(
        self, connection: Connection, table: Any, translation: Translation | None = None
    ) -> CapturedTable | None:
        """The captured table that a statement's table is, under its ``schema_translate_map``; None if it is not
        captured."""
        own = self._captured(connection, table)
        if own is None or not translation:
            return own
        return self._translated.of(own, translation, connection.dialect.default_schema_name or "main")

    def _captured(self, connection: Connection, table: Any) -> CapturedTable | None:
        name = (getattr(table, "schema", None), getattr(table, "name", None))
        try:
            return self._tables[name]  # type: ignore[index]
        except KeyError:
            own = self._metadata.tables.get(f"{name[0]}.{name[1]}" if name[0] else str(name[1]))
            found = None
            if own is not None and self._wanted.wants(own):
                found = self._wanted.on(own, connection.dialect, connection.dialect.default_schema_name or "main")
                if self._by_triggers.captures(connection, found, self._wanted.settings(own)):
                    found = None
            self._tables[name] = found  # type: ignore[index]
            return found

    def flush(self, connection: Connection, *, last: bool = False, commit: bool = False) -> None:
        """Writes what the connection's transaction has touched so far into the outbox; ``last``: it ends now.

        ``commit``: nothing else is to be done before COMMIT, which may go with it.
        """
        touched = self._transactions.get(connection)
        if touched is None:
            return
        touched.raise_what_was_refused()
        if last:
            self._observer.ends(connection, touched)
            if touched.written:
                self._complete_what_is_written(connection)
        if not touched.notes:
            return
        if connections.is_translated(connection):
            with connections.untranslated(connection):
                self._write(connection, touched, last=last, commit=commit)
        else:
            self._write(connection, touched, last=last, commit=commit)

    def _write(self, connection: Connection, touched: Touched, *, last: bool, commit: bool) -> None:
        ensure_functions(connection)
        if not self._shapes.confirms([note.table for note in touched.notes]):
            self._shapes.write(connection, touched, touched.fold())
        # A trigger that is deferred may write yet: then nobody knows which row is the last.
        ends = last and not self._by_triggers.names(connection)

        def name() -> str:
            return self._by_triggers.transaction(connection) or touched.transaction

        context = self._context.document()
        if not self._drain.write_few(connection, touched.notes, name, context, last=ends, commit=commit):
            folded, old = touched.fold(), touched.old_rows()
            self._drain.write(connection, folded, old, name, context, last=ends, commit=commit)
        if last:
            self._by_triggers.end(connection)
        touched.drained()
        self._on_drained()

    def _may_write_now(self, table: CapturedTable) -> bool:
        """Whether the outbox may take the table's changes at once: their shape is known, and nothing goes with them."""
        return self._shapes.confirms([table]) and self._context.document() is None

    def _complete_what_is_written(self, connection: Connection) -> None:
        """What statements have written themselves has no context, and the transaction may have got one since."""
        context = self._context.document()
        if context is not None:
            outbox = self._outbox.outbox
            own = outbox.c.tx == sa.cast(sa.func.txid_current(), sa.String)
            statement = outbox.update().where(own, outbox.c.context.is_(None)).values(context=context)
            connection.execute(statement, execution_options={**AS_STORED, **OWN})
        self._on_drained()

    # -- the transaction's life

    def _rollback(self, connection: Connection) -> None:
        self._transactions.forget(connection)

    def _rollback_twophase(self, connection: Connection, xid: Any, is_prepared: bool) -> None:
        self._transactions.forget(connection)

    def _commit(self, connection: Connection) -> None:
        try:
            self.flush(connection, last=True, commit=self._commits_next(connection))
        except BaseException:
            # SQLAlchemy takes a transaction whose commit has failed for ended, and would hand the connection to the
            # next user with these changes still open: they would be committed then, without their outbox row.
            self._roll_back(connection)
            raise
        finally:
            self._transactions.forget(connection)

    def _commits_next(self, connection: Connection) -> bool:
        """Whether no other listener may write anything between this one and COMMIT."""
        *_, last = connection.dispatch.commit
        return bool(last == self._events["commit"])

    def _roll_back(self, connection: Connection) -> None:
        if connection.invalidated:
            # It was lost, and the transaction with it.
            return
        try:
            connection.dialect.do_rollback(connection.connection)
        except connection.dialect.loaded_dbapi.Error:
            # A connection that cannot roll back is of no use to anybody; its server rolls back for it.
            connection.invalidate()

    def _prepare_twophase(self, connection: Connection, xid: Any) -> None:
        # A failure leaves the transaction active: its owner rolls it back.
        self.flush(connection, last=True)
        self._transactions.forget(connection)

    def _commit_twophase(self, connection: Connection, xid: Any, is_prepared: bool) -> None:
        if not is_prepared:
            self._commit(connection)

    def _savepoint(self, connection: Connection, name: str | None) -> None:
        self._transactions.of(connection).savepoint(connections.savepoint_name(connection, name))

    def _rollback_savepoint(self, connection: Connection, name: str, context: Any) -> None:
        self._transactions.of(connection).rollback_to(name)

    def _release_savepoint(self, connection: Connection, name: str, context: Any) -> None:
        self._transactions.of(connection).release(name)

    # -- statements

    def _bound_memory(self, connection: Connection, touched: Touched) -> None:
        """A huge transaction is written bit by bit: its rows are locked until it ends, so nothing changes between."""
        if touched.keys > _MOST_KEYS and not touched.in_savepoint:
            self.flush(connection)
