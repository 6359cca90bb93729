"""Capture row changes with listeners: the hook for applications."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from rowcast.producer.capture.engine_class import EngineClassListener, UrlFilter
from rowcast.producer.capture.engine_listeners import EngineListeners
from rowcast.producer.capture.findings import capture_findings
from rowcast.producer.capture.notes.strictness import Strictness, StrictnessRule
from rowcast.producer.capture.transaction_context import TransactionContext
from rowcast.producer.database import live_listeners
from rowcast.producer.outbox.creation import create_missing_tables
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.tables.captured import CapturedTables
from rowcast.producer.tables.merged_metadata import merge_metadata
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.database.commit_tokens import take_token
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.findings import Finding

if TYPE_CHECKING:
    from rowcast.shared.config.settings import Settings


class Capture:
    """Record every committed row change of a metadata's tables in a transactional outbox.

    ``source``: the name of the primary in topics and events. ``metadata``: every table is captured, except tables with
    ``Table(info={"rowcast": False})``. Several MetaData are one source. ``outbox_in_metadata``: add the outbox tables
    (``rowcast_*``) to the metadata, where ``create_all`` and Alembic find them. Without it, and with several MetaData,
    ``create_outbox`` or ``rowcast init`` creates them. ``tables``: the settings of each table, as in ``[tables]`` of
    ``rowcast.toml`` (``docs/reference/configuration.md``). The settings take precedence over ``Table.info`` and
    ``Column.info``. ``context``: return values for the transaction, in addition to the values of ``Capture.context``.
    The function is called at each commit with changes, and before an UPDATE that finds its rows by a condition, because
    the UPDATE may write to the outbox at once. Raises ConfigurationError if ``tables`` is not valid.

    The capture records the statements of every session on which it is installed, and of the session's engine: the unit
    of work, bulk operations and Core DML. SQL text shows only which tables change. ``strict`` decides about a statement
    on a captured table whose changed rows the capture cannot find out: ``"warn"`` gives a CaptureWarning, ``"raise"``
    raises CaptureError before the statement runs. ``docs/how-to/raw-sql.md`` says what to do.
    """

    def __init__(
        self,
        metadata: sa.MetaData | Iterable[sa.MetaData],
        *,
        source: str,
        strict: Strictness = "warn",
        tables: Mapping[str, TableSettings | Mapping[str, Any]] | None = None,
        context: Callable[[], Mapping[str, Any] | None] | None = None,
        outbox_in_metadata: bool = True,
    ) -> None:
        self.metadata = merge_metadata(metadata)
        self.source = source
        self._outbox = outbox_tables(self.metadata if outbox_in_metadata else sa.MetaData())
        self._tables = CapturedTables(self.metadata, tables)
        self._strictness = StrictnessRule(strict)
        self._context = TransactionContext(context)
        # SQLAlchemy's listeners keep the EngineListeners as long as the engine. A program may make many engines, and
        # the capture must not keep them.
        self._engines: WeakKeyDictionary[Engine, ref[EngineListeners]] = WeakKeyDictionary()
        self._engine_classes: list[EngineClassListener] = []
        self._session_targets: list[Any] = []
        self._async_classes: list[tuple[Any, Any]] = []
        self._callbacks: list[Callable[[], None]] = []
        self._drained = _Drained()
        self._lock = threading.Lock()

    @classmethod
    def from_settings(
        cls, metadata: sa.MetaData | Iterable[sa.MetaData], settings: Settings, **options: Any
    ) -> Capture:
        """Make a capture of the source and tables in ``settings``. ``options``: the other parameters of Capture."""
        return cls(metadata, source=settings.source, tables=settings.tables, **options)

    # -- installing

    def install(self, target: Any, *, urls: UrlFilter = None) -> None:
        """Install the listeners on a sessionmaker, scoped_session, Session class, async_sessionmaker or engine.

        ``target`` may also be an AsyncEngine, or the class Engine for all present and future engines of the process,
        also behind an AsyncEngine. ``urls`` chooses among the engines, by a shell pattern such as
        ``"postgresql*/shop"`` over the URL with the password ``***``, or by a function of the URL. Installing twice on
        the same target changes nothing. Raises ConfigurationError if a captured table has no primary key, if a table's
        settings are not valid for the table, or if ``target`` is another object.
        """
        self._check_tables()
        target = _unwrap(target)
        is_engine_class = isinstance(target, type) and issubclass(target, Engine)
        if urls is not None and not is_engine_class:
            raise ConfigurationError(f"urls chooses engines of the class Engine, and {target!r} is another target.")
        if is_engine_class:
            self._install_class(target, urls)
        elif isinstance(target, Engine):
            self._listen_to(target)
        elif _is_async_sessionmaker(target):
            self._install_async(target)
        elif isinstance(target, sessionmaker) or (isinstance(target, type) and issubclass(target, Session)):
            self._install_session(target)
        else:
            raise ConfigurationError(
                f"cannot install the capture on {target!r}. Give a sessionmaker, scoped_session, Session class, "
                "async_sessionmaker, engine, AsyncEngine, or the class Engine."
            )

    def uninstall(self, target: Any) -> None:
        """Remove the listeners from a target. After the last session the listeners on all engines are removed too."""
        target = _unwrap(target)
        if isinstance(target, Engine):
            self._stop_listening_to(target)
            return
        for listener in [one for one in self._engine_classes if one.engine_class is target]:
            self._engine_classes.remove(listener)
            listener.stop()
        for owner, original in list(self._async_classes):
            if owner is target:
                self._async_classes.remove((owner, original))
                captured = target.kw["sync_session_class"]
                target.configure(sync_session_class=original)
                target = captured
                break
        if target in self._session_targets:
            self._session_targets.remove(target)
            live_listeners.remove_from_class(_session_class(target), "after_begin", self._after_begin)
            live_listeners.remove_from_class(_session_class(target), "after_commit", self._after_commit)
        if not self._session_targets and not self._engine_classes:
            for engine in list(self._engines):
                self._stop_listening_to(engine)

    def create_outbox(self, bind: Engine | Connection) -> None:
        """Create the outbox tables that do not exist yet, and write the shapes of the captured tables that exist.

        The first transaction of a process then need not write the shapes.

        ``bind``: an engine, or a connection, whose transaction is then the caller's. With an AsyncEngine, call
        ``await connection.run_sync(capture.create_outbox)``. Raises ConfigurationError if another version of rowcast
        has created a table, or if a captured table cannot be captured.
        """
        create_missing_tables(bind, self._outbox, self._write_shapes)

    def _write_shapes(self, connection: Connection) -> None:
        engine = connection.engine
        listeners = self._listeners_on(getattr(engine, "_proxied", engine)) or self._new_listeners(engine)
        listeners.write_shapes(connection)

    def flush(self, connection: Connection) -> None:
        """Write the changes of the connection's open transaction into the outbox now.

        Use it for a session inside an outer transaction that the engine never commits, as in a test.
        """
        self._listen_to(connection.engine).flush(connection)

    def context(self, **values: Any) -> AbstractContextManager[None]:
        """Give values to every transaction committed in the block: ``with capture.context(actor="anna"): …``.

        The values count in the current thread or asyncio task, and in tasks that it starts. An inner block adds to an
        outer block. Raises ConfigurationError if the values cannot be written as JSON, or in more than 4,096 bytes.
        """
        return self._context.given(values)

    def token(self, session: Session) -> str:
        """Return a token for everything that the session's primary has committed, to be taken after the commit.

        A replica has all of it when ``ReadReplica.has(token)``. The token is a short text for a header or a cookie.
        With an AsyncSession, call ``await session.run_sync(capture.token)``. Raise ConfigurationError in an open
        transaction, or if the outbox tables cannot be read.
        """
        bind = session.get_bind()
        if session.in_transaction() or not isinstance(bind, Engine):
            raise ConfigurationError(
                "a token includes the commits before it, and this session has an open transaction. Call "
                "session.commit() before capture.token(session)."
            )
        with bind.connect() as connection:
            return str(take_token(connection, self.source))

    def on_commit(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` after each commit with changes. The callback must be quick and thread-safe.

        Return a function to end the calls.
        """
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def check(self, engine: Engine) -> list[Finding]:
        """Return what cannot be captured on this engine, and why.

        A finding is about a table without a primary key, with an unmapped type, with invalid settings or on a storage
        engine without transactions, about a missing outbox table, or about an engine in AUTOCOMMIT.
        """
        return capture_findings(_unwrap(engine), self._outbox, self._tables)

    def _check_tables(self) -> None:
        self._tables.check()

    # -- sessions

    def _install_session(self, target: Any) -> None:
        if target in self._session_targets:
            return
        self._session_targets.append(target)
        live_listeners.listen_to_class(_session_class(target), "after_begin", self._after_begin)
        live_listeners.listen_to_class(_session_class(target), "after_commit", self._after_commit)
        for bind in _binds(getattr(target, "kw", {})):
            self._listen_to(bind)

    def _install_async(self, target: Any) -> None:
        """Install on the session class of the async session, because an async session has no events."""
        if any(owner is target for owner, _ in self._async_classes):
            return
        original = target.kw.get("sync_session_class", getattr(target.class_, "sync_session_class", Session))
        captured = type(original.__name__, (original,), {"__module__": original.__module__})
        target.configure(sync_session_class=captured)
        self._async_classes.append((target, original))
        self._install_session(captured)
        for bind in _binds(target.kw):
            self._listen_to(bind)

    def _after_begin(self, _session: Session, _transaction: Any, connection: Connection) -> None:
        self._listen_to(connection.engine)

    def _after_commit(self, _session: Session) -> None:
        self._call_callbacks()

    # -- engines

    def _install_class(self, target: type[Engine], urls: UrlFilter) -> None:
        if any(listener.engine_class is target for listener in self._engine_classes):
            return
        listener = EngineClassListener(target, urls, self._listen_to)
        self._engine_classes.append(listener)
        listener.listen()

    def _listeners_on(self, engine: Engine) -> EngineListeners | None:
        found = self._engines.get(engine)
        return None if found is None else found()

    def _listen_to(self, engine: Engine) -> EngineListeners:
        """Return the listeners on the engine. Install them at the first call."""
        # An engine with execution options is a facade, and SQLAlchemy calls the listeners of the engine behind it.
        engine = getattr(engine, "_proxied", engine)
        listeners = self._listeners_on(engine)
        if listeners is None:
            with self._lock:
                listeners = self._listeners_on(engine)
                if listeners is None:
                    listeners = self._new_listeners(engine)
                    listeners.install()
                    self._engines[engine] = ref(listeners)
                    live_listeners.listen(engine, "checkin", self._checked_in)
        return listeners

    def _new_listeners(self, engine: Engine) -> EngineListeners:
        return EngineListeners(engine, self._tables, self._outbox, self._strictness, self._context, self._drained.set)

    def _stop_listening_to(self, engine: Engine) -> None:
        engine = getattr(engine, "_proxied", engine)
        listeners = self._listeners_on(engine)
        if listeners is not None:
            del self._engines[engine]
            listeners.uninstall()
            live_listeners.remove(engine, "checkin", self._checked_in)

    def _checked_in(self, _connection: Any, _record: Any) -> None:
        # An engine has no event after its commit. When the connection returns to the pool, the commit has ended.
        self._call_callbacks()

    def _call_callbacks(self) -> None:
        if self._drained.in_this_thread:
            self._drained.in_this_thread = False
            for callback in tuple(self._callbacks):
                callback()


class _Drained(threading.local):
    """Know whether this thread has written to the outbox since its last call of the callbacks.

    Each thread has a flag of its own, because a thread must not call the callbacks for another thread's transaction.
    Another thread's transaction may not be committed yet.
    """

    in_this_thread = False

    def set(self) -> None:
        """Remember a write to the outbox by the thread."""
        self.in_this_thread = True


def _unwrap(target: Any) -> Any:
    """Return the factory of a scoped_session or the engine of an AsyncEngine. Return other targets unchanged."""
    if isinstance(target, scoped_session):
        return target.session_factory
    return getattr(target, "sync_engine", target)


def _session_class(target: Any) -> type[Session]:
    """Return the session class that a sessionmaker has made for itself. Return a session class unchanged."""
    class_: type[Session] = target.class_ if isinstance(target, sessionmaker) else target
    return class_


def _is_async_sessionmaker(target: Any) -> bool:
    try:
        from sqlalchemy.ext.asyncio import async_sessionmaker
    except (ImportError, exc.InvalidRequestError):
        # Without greenlet SQLAlchemy has no asyncio extension, and no async_sessionmaker.
        return False
    return isinstance(target, async_sessionmaker)


def _binds(kw: dict[str, Any]) -> list[Engine]:
    binds = [kw.get("bind"), *(kw.get("binds") or {}).values()]
    unwrapped = [_unwrap(bind) for bind in binds if bind is not None]
    return [bind if isinstance(bind, Engine) else bind.engine for bind in unwrapped]
