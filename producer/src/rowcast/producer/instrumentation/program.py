"""Install the capture on the engines of a program, at the first connection of each engine."""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from weakref import WeakSet

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine

from rowcast.producer.capture.hook import Capture
from rowcast.producer.capture.reflecting import ReflectingCapture
from rowcast.producer.instrumentation.databases import SourceDatabase
from rowcast.producer.instrumentation.migrations import leave_out_migrations
from rowcast.producer.instrumentation.options import Options, options_of_process
from rowcast.producer.instrumentation.outbox import require_outbox
from rowcast.producer.instrumentation.triggers import TriggersOfProgram
from rowcast.producer.tables.named_metadata import named_metadata
from rowcast.shared.config.settings import Settings, load
from rowcast.shared.database.engines import is_own_engine
from rowcast.shared.errors import CaptureError

_log = logging.getLogger("rowcast.instrument")


def start() -> InstrumentedProgram:
    """Start the instrumentation of this process. The module ``sitecustomize`` calls the function once."""
    program = InstrumentedProgram(options_of_process())
    atexit.register(program.report_at_exit)
    return program


class InstrumentedProgram:
    """Install the capture on each engine of the source's database, at its first connection.

    An error is raised out of the program's call for a connection, because the program would lose changes otherwise.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._decided: WeakSet[Engine] = WeakSet()
        self._other_urls: dict[str, None] = {}
        self._captures_any = False
        self._triggers: TriggersOfProgram | None = None
        self._lock = threading.RLock()
        self._early: list[Connection] | None = None
        """The connections that the modules with the metadata open while they are imported."""

    def report_at_exit(self) -> None:
        """Print an error if the program has connected, but never to the source's database."""
        if self._other_urls and not self._captures_any:
            print(  # noqa: T201  # the program's logging may be closed
                f"rowcast instrument: this program was not captured, because none of its engines connects to "
                f"{self._database}. It connected to {', '.join(self._other_urls)}. Correct the url in [primary], or "
                "give --url-match a pattern for the engine's URL.",
                file=sys.stderr,
            )

    # -- settings and capture, at first use

    @cached_property
    def _settings(self) -> Settings:
        config = self._options.config
        return load(None if config is None else Path(config))

    @cached_property
    def _database(self) -> SourceDatabase:
        return SourceDatabase(self._options, self._settings)

    @cached_property
    def _capture(self) -> Capture:
        tables = self._settings.tables
        if not self._options.metadata:
            return ReflectingCapture(source=self._settings.source, tables=tables, strict=self._options.strict)
        metadata = [named_metadata(name) for name in self._options.metadata]
        return Capture.from_settings(metadata, self._settings, strict=self._options.strict, outbox_in_metadata=False)

    # -- engines

    def engine_connect(self, connection: Connection) -> None:
        """Install the capture if this is the first connection of an engine of the source's database."""
        engine = _engine_of(connection)
        if engine in self._decided:
            if self._triggers is not None:
                self._triggers.renew(connection)
            return
        if is_own_engine(engine):
            return
        try:
            if not self._is_source(engine.url):
                self._report_other(engine.url)
                self._decided.add(engine)
            elif self._early is not None:
                self._wait(connection)
            else:
                self._instrument(engine, connection)
        except BaseException:
            connection.close()
            raise

    def _is_source(self, url: URL) -> bool:
        return self._database.is_of(url)

    def _report_other(self, url: URL) -> None:
        if (shown := str(url)) not in self._other_urls:
            self._other_urls[shown] = None
            _log.info("not captured: %s, which is not %s", shown, self._database)

    def _instrument(self, engine: Engine, connection: Connection) -> None:
        require_outbox(connection, create=self._options.create_outbox)
        if not self._options.migrations:
            leave_out_migrations()
        if self._options.capture_by == "triggers":
            self._install_triggers(connection)
        else:
            with self._importing():
                capture = self._capture
            if isinstance(capture, ReflectingCapture):
                capture.describe(connection)
                connection.rollback()
            capture.install(engine)
        self._decided.add(engine)
        self._captures_any = True
        _log.info("captured by %s: %s", self._options.capture_by, engine.url)

    def _install_triggers(self, connection: Connection) -> None:
        if self._triggers is None:
            with self._importing():
                metadata = [named_metadata(name) for name in self._options.metadata]
            self._triggers = TriggersOfProgram(metadata, self._settings.tables)
        self._triggers.install(connection)

    @contextmanager
    def _importing(self) -> Iterator[None]:
        """Import modules in the block. New engines get the capture afterwards."""
        with self._lock:
            early: list[Connection] = []
            self._early = early
            try:
                yield
            finally:
                self._early = None
                for connection in early:
                    event.remove(_engine_of(connection), "before_cursor_execute", _refuse_change)
        for connection in early:
            if not connection.closed:
                self._instrument(_engine_of(connection), connection)

    def _wait(self, connection: Connection) -> None:
        assert self._early is not None
        self._early.append(connection)
        event.listen(_engine_of(connection), "before_cursor_execute", _refuse_change)


def _engine_of(connection: Connection) -> Engine:
    """Return the engine behind the engine's facade with execution options."""
    engine: Engine = getattr(connection.engine, "_proxied", connection.engine)
    return engine


def _refuse_change(
    connection: Connection, cursor: object, statement: str, parameters: object, context: object, executemany: bool
) -> None:
    """Refuse a change while the module with the metadata is imported, because the change could not be captured."""
    verb = statement.lstrip(" \t\r\n(").partition(" ")[0].lower()
    if verb in ("insert", "update", "delete", "replace", "merge", "with", "truncate", "copy", "load"):
        raise CaptureError(
            f"not captured: a module that --metadata names changes rows of {connection.engine.url} while it is "
            f"imported: {statement[:200]}. Leave --metadata out, so that the tables are read from the database."
        )
