"""The hook that an application embeds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from rowcast.producer.announcements import Announcer, Strictness
from rowcast.producer.capturing import ByTriggers
from rowcast.producer.context import TransactionContext
from rowcast.producer.listeners import EngineListeners
from rowcast.producer.outbox import missing_of, outbox_tables
from rowcast.producer.predicates import check_predicate
from rowcast.producer.tables import CapturedTables
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.table_settings import TableSettings

if TYPE_CHECKING:
    from rowcast.shared.config import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the capture cannot do, by table, and how to mend it."""

    table: str
    message: str


class Capture:
    """Records every committed row change of a metadata's tables in a transactional outbox.

    ``source`` names this primary in topics and events. Every table of ``metadata`` is captured, less those with
    ``Table(info={"rowcast": False})``; the outbox tables (``rowcast_*``) are added to ``metadata``. ``tables``: what of
    each leaves, as ``[tables]`` of ``rowcast.toml`` has it (``docs/reference/configuration.md``); it goes before what
    ``Table.info`` and ``Column.info`` say. ``context`` is asked at each commit that writes to the outbox (and before
    an UPDATE that finds its rows by a condition, which may write to it at once), and answers
    what is to go with the transaction, beside what ``Capture.context`` says. Raises ConfigurationError if ``tables`` is
    not valid.

    What goes through a session on which the capture is installed, and through the engine of such a session, is
    captured: the unit of work, bulk operations, Core DML. Of SQL text only the tables' names can be told. ``strict``
    says what becomes of a statement that changes a captured table, and no one can tell which rows: ``"warn"`` raises a
    CaptureWarning, ``"raise"`` a CaptureError, before the statement runs. ``docs/capture.md`` has the ways out.
    """

    def __init__(
        self,
        metadata: sa.MetaData,
        *,
        source: str,
        strict: Strictness = "warn",
        tables: Mapping[str, TableSettings | Mapping[str, Any]] | None = None,
        context: Callable[[], Mapping[str, Any] | None] | None = None,
    ) -> None:
        self.metadata = metadata
        self.source = source
        self._outbox = outbox_tables(metadata)
        self._tables = CapturedTables(metadata, tables)
        self._announcer = Announcer(strict)
        self._context = TransactionContext(context)
        self._engines: dict[Engine, EngineListeners] = {}
        self._session_targets: list[Any] = []
        self._async_classes: list[tuple[Any, Any]] = []
        self._callbacks: list[Callable[[], None]] = []
        self._drained = _Drained()
        self._lock = threading.Lock()

    @classmethod
    def from_settings(cls, metadata: sa.MetaData, settings: Settings, **options: Any) -> Capture:
        """With the source and the tables of ``rowcast.shared.config.load()``; ``options`` are Capture's own."""
        return cls(metadata, source=settings.source, tables=settings.tables, **options)

    # -- installing

    def install(self, target: Any) -> None:
        """Installs the listeners on a sessionmaker, scoped_session, Session class, async_sessionmaker, Engine or
        AsyncEngine. Installing twice on the same target changes nothing.

        Raises ConfigurationError if a captured table has no primary key, if what is to leave of a table cannot, or if
        ``target`` is none of these.
        """
        self._tables.check()
        target = _unwrapped(target)
        if isinstance(target, Engine):
            self._listeners(target)
        elif _is_async_sessionmaker(target):
            self._install_async(target)
        elif isinstance(target, sessionmaker) or (isinstance(target, type) and issubclass(target, Session)):
            self._install_session(target)
        else:
            raise ConfigurationError(
                f"cannot install the capture on {target!r}: give it a sessionmaker, scoped_session, Session class, "
                "async_sessionmaker, Engine or AsyncEngine."
            )

    def uninstall(self, target: Any) -> None:
        """Takes the listeners off again; the engines that a session led to are let go with it."""
        target = _unwrapped(target)
        if isinstance(target, Engine):
            self._forget(target)
            return
        for owner, original in list(self._async_classes):
            if owner is target:
                self._async_classes.remove((owner, original))
                captured = target.kw["sync_session_class"]
                target.configure(sync_session_class=original)
                target = captured
                break
        if target in self._session_targets:
            self._session_targets.remove(target)
            event.remove(target, "after_begin", self._after_begin)
            event.remove(target, "after_commit", self._after_commit)
        if not self._session_targets:
            for engine in list(self._engines):
                self._forget(engine)

    def flush(self, connection: Connection) -> None:
        """Writes what the connection's transaction has touched so far into the outbox, now.

        For a session that is joined to an outer transaction whose commit the engine never sees (a test's, say).
        """
        self._listeners(connection.engine).flush(connection)

    def context(self, **values: Any) -> AbstractContextManager[None]:
        """Goes with every transaction that is committed in the block: ``with capture.context(actor="anna"): …``.

        It holds for the thread or asyncio task at hand and what that starts in turn; an inner block adds to an outer
        one. Raises ConfigurationError if it is no JSON, or longer than ``rowcast.producer.context.LONGEST`` bytes.
        """
        return self._context.given(values)

    def on_commit(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls ``callback``, which must be quick and thread-safe, after commits that wrote to the outbox.

        Returns a function that ends it.
        """
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def check(self, engine: Engine) -> list[Finding]:
        """What cannot be captured on this engine, and why: tables without a key, with a type that has no mapping, with
        settings that cannot be kept; outbox tables that are missing."""
        findings = []
        engine = _unwrapped(engine)
        with engine.connect() as connection:
            for own in self._outbox:
                if missing := missing_of(own, connection):
                    findings.append(Finding(own.name, missing))
            for name in self._tables.unknown():
                findings.append(Finding(name, "is named in the configuration, and the metadata has no such table"))
            for table in self._tables.candidates():
                try:
                    findings += [Finding(table.fullname, fault) for fault in self._faults(connection, table)]
                except ConfigurationError as error:
                    connection.rollback()
                    findings.append(Finding(table.fullname, str(error)))
        return findings

    def _faults(self, connection: Connection, table: sa.Table) -> Iterator[str]:
        """Raises ConfigurationError for what the settings cannot say of this table."""
        if not self._tables.wants(table):
            return
        if not table.primary_key.columns:
            yield "has no primary key: add one, or leave the table out"
            return
        captured = self._tables.on(table, connection.dialect, connection.dialect.default_schema_name or "main")
        if not sa.inspect(connection).has_table(table.name, schema=table.schema):
            yield "does not exist in the database: create it, or migrate"
            return
        check_predicate(connection, captured)
        if sa.inspect(connection).has_table(self._outbox.shape.name):
            ByTriggers(self._outbox.shape).captures(connection, captured, self._tables.settings(table))

    # -- sessions

    def _install_session(self, target: Any) -> None:
        if target in self._session_targets:
            return
        self._session_targets.append(target)
        event.listen(target, "after_begin", self._after_begin)
        event.listen(target, "after_commit", self._after_commit)
        for bind in _binds(getattr(target, "kw", {})):
            self._listeners(bind)

    def _install_async(self, target: Any) -> None:
        """An async session cannot be listened to; the session class that it drives can."""
        if any(owner is target for owner, _ in self._async_classes):
            return
        original = target.kw.get("sync_session_class", getattr(target.class_, "sync_session_class", Session))
        captured = type(original.__name__, (original,), {"__module__": original.__module__})
        target.configure(sync_session_class=captured)
        self._async_classes.append((target, original))
        self._install_session(captured)
        for bind in _binds(target.kw):
            self._listeners(bind)

    def _after_begin(self, _session: Session, _transaction: Any, connection: Connection) -> None:
        self._listeners(connection.engine)

    def _after_commit(self, _session: Session) -> None:
        self._wake()

    # -- engines

    def _listeners(self, engine: Engine) -> EngineListeners:
        # An engine with execution options is a facade; its statements reach the listeners of the one behind it.
        engine = getattr(engine, "_proxied", engine)
        listeners = self._engines.get(engine)
        if listeners is None:
            with self._lock:
                listeners = self._engines.get(engine)
                if listeners is None:
                    listeners = EngineListeners(
                        engine, self._tables, self._outbox, self._announcer, self._context, self._drained.set
                    )
                    listeners.install()
                    self._engines[engine] = listeners
                    event.listen(engine, "checkin", self._checked_in)
        return listeners

    def _forget(self, engine: Engine) -> None:
        engine = getattr(engine, "_proxied", engine)
        listeners = self._engines.pop(engine, None)
        if listeners is not None:
            listeners.uninstall()
            event.remove(engine, "checkin", self._checked_in)

    def _checked_in(self, _connection: Any, _record: Any) -> None:
        # An engine has no event after its commit; when its connection comes back the commit is certainly over.
        self._wake()

    def _wake(self) -> None:
        if self._drained.here:
            self._drained.here = False
            for callback in tuple(self._callbacks):
                callback()


class _Drained(threading.local):
    """Whether this thread has written to the outbox since callbacks were last called in it: another thread's commit is
    not this one's."""

    here = False

    def set(self) -> None:
        self.here = True


def _unwrapped(target: Any) -> Any:
    """A scoped_session's factory, an AsyncEngine's engine."""
    if isinstance(target, scoped_session):
        return target.session_factory
    return getattr(target, "sync_engine", target)


def _is_async_sessionmaker(target: Any) -> bool:
    try:
        from sqlalchemy.ext.asyncio import async_sessionmaker
    except (ImportError, exc.InvalidRequestError):
        # Without greenlet there is no asyncio extension, and so no async_sessionmaker.
        return False
    return isinstance(target, async_sessionmaker)


def _binds(kw: dict[str, Any]) -> list[Engine]:
    binds = [kw.get("bind"), *(kw.get("binds") or {}).values()]
    unwrapped = [_unwrapped(bind) for bind in binds if bind is not None]
    return [bind if isinstance(bind, Engine) else bind.engine for bind in unwrapped]
