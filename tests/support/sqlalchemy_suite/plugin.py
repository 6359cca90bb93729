"""Install a capture on every engine that SQLAlchemy's test suite makes: a pytest plugin.

The captured tables are the tables that the tests create, as long as they exist. The outbox tables are in a schema of
their own, because many tests list the tables of the default schema.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from rowcast.producer import Capture, CaptureWarning
from rowcast.producer.capture import shape_writer
from rowcast.producer.database.dialects.statement_options import INTERNAL_OPTION
from rowcast.producer.outbox import capture_mode
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.errors import ConfigurationError

HIDDEN_SCHEMA = "rowcast_hidden"
_ENGINES = ("sqlite", "postgresql")
_create_engine = sa.create_engine


class CapturedDatabase:
    """Keep the capture of the engines of one database up to date with the tables that exist."""

    def __init__(self) -> None:
        self.metadata = sa.MetaData()
        self.engines: WeakSet[Engine] = WeakSet()
        self.transactions = 0
        hidden = sa.MetaData()
        for table in outbox_tables(hidden):
            copy = table.to_metadata(hidden, schema=HIDDEN_SCHEMA)
            self.metadata.tables._insert_item(table.name, copy)
        self._capture = self._new_capture()

    def _new_capture(self) -> Capture:
        capture = Capture(self.metadata, source="suite")
        capture.on_commit(self._count)
        return capture

    def _count(self) -> None:
        self.transactions += 1

    def add_engine(self, engine: Engine) -> None:
        """Capture an engine."""
        self.engines.add(engine)
        self._capture.install(engine)

    def add_table(self, table: sa.Table, connection: Connection) -> None:
        """Capture a table, unless it has no primary key or a type that rowcast does not know."""
        dict.pop(self.metadata.tables, table.key, None)
        if not table.primary_key.columns:
            return
        try:
            CapturedTable(table, connection.dialect, connection.dialect.default_schema_name or "main")
        except ConfigurationError:
            return
        self.metadata.tables._insert_item(table.key, table)

    def remove_table(self, table: sa.Table) -> None:
        """Capture a table no longer."""
        dict.pop(self.metadata.tables, table.key, None)

    def renew(self) -> None:
        """Replace the capture, because a capture expects that the definition of a table stays."""
        old, self._capture = self._capture, self._new_capture()
        for engine in tuple(self.engines):
            old.uninstall(engine)
            self._capture.install(engine)


_databases: dict[Any, CapturedDatabase] = {}
_of_engines: WeakKeyDictionary[Engine, CapturedDatabase] = WeakKeyDictionary()


def _create_captured_engine(url: Any, **options: Any) -> Engine:
    engine = _create_engine(url, **options)
    if engine.dialect.name not in _ENGINES or "module" in options or type(engine) is not Engine:
        return engine
    if engine.dialect.is_async:
        return engine
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _attach_outbox)
    else:
        _create_outbox(engine)
    place = engine.url.render_as_string() if _lasts(engine.url) else object()
    database = _databases.get(place)
    if database is None:
        database = CapturedDatabase()
        if _lasts(engine.url):
            _databases[place] = database
    _of_engines[engine] = database
    database.add_engine(engine)
    return engine


def _lasts(url: sa.URL) -> bool:
    return url.get_backend_name() != "sqlite" or (url.database or ":memory:") not in (":memory:", "")


_outbox_ddl: dict[str, list[str]] = {}


def _ddl(dialect: sa.Dialect) -> list[str]:
    if dialect.name not in _outbox_ddl:
        hidden = sa.MetaData()
        for table in outbox_tables(hidden):
            table.to_metadata(hidden, schema=HIDDEN_SCHEMA)
        tables = [table for table in hidden.tables.values() if table.schema == HIDDEN_SCHEMA]
        _outbox_ddl[dialect.name] = [str(sa.schema.CreateTable(table).compile(dialect=dialect)) for table in tables]
    return _outbox_ddl[dialect.name]


def _attach_outbox(connection: Any, _record: object) -> None:
    from sqlalchemy.dialects import sqlite

    cursor = connection.cursor()
    cursor.execute(f"ATTACH ':memory:' AS {HIDDEN_SCHEMA}")
    for statement in _ddl(sqlite.dialect()):
        cursor.execute(statement)
    cursor.close()


def _create_outbox(engine: Engine) -> None:
    if engine.url in _databases_with_outbox:
        return
    _databases_with_outbox.add(engine.url)
    own = _create_engine(engine.url, isolation_level="AUTOCOMMIT")
    with own.connect() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {HIDDEN_SCHEMA} CASCADE")
        connection.exec_driver_sql(f"CREATE SCHEMA {HIDDEN_SCHEMA}")
        for statement in _ddl(own.dialect):
            connection.exec_driver_sql(statement)
    own.dispose()


_databases_with_outbox: set[sa.URL] = set()


def _after_create(table: sa.Table, connection: Any, _is_metadata_operation: bool = False, **_: Any) -> None:
    database = _database_of(connection)
    if database is not None:
        database.add_table(table, connection)
        if not _is_metadata_operation:
            database.renew()


def _after_drop(table: sa.Table, connection: Any, _is_metadata_operation: bool = False, **_: Any) -> None:
    database = _database_of(connection)
    if database is not None:
        database.remove_table(table)
        if not _is_metadata_operation:
            database.renew()


def _after_all(metadata: sa.MetaData, connection: Any, **_: Any) -> None:
    database = _database_of(connection)
    if database is not None:
        database.renew()


def _database_of(connection: Any) -> CapturedDatabase | None:
    if not isinstance(connection, Connection):
        return None
    return _of_engines.get(getattr(connection.engine, "_proxied", connection.engine))


def pytest_configure(config: pytest.Config) -> None:
    """Capture all engines from now on. The outbox and its shapes are known to exist, so that nothing asks for them."""
    sa.create_engine = _create_captured_engine
    event.listen(sa.Table, "after_create", _after_create)
    event.listen(sa.Table, "after_drop", _after_drop)
    event.listen(sa.MetaData, "after_create", _after_all)
    event.listen(sa.MetaData, "after_drop", _after_all)
    shape_writer.ShapeWriter.are_committed = lambda *_: True  # type: ignore[method-assign]
    capture_mode.TriggerCapturedTables.names = lambda *_: frozenset()  # type: ignore[method-assign]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let the tests that count and compare statements leave out the capture's own."""
    from sqlalchemy.testing import assertsql

    asserter_class: Any = assertsql.SQLAsserter
    close = asserter_class._close

    def close_without_own(asserter: Any) -> None:
        close(asserter)
        asserter._final = [one for one in asserter._final if INTERNAL_OPTION not in one.context.execution_options]

    asserter_class._close = close_without_own


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        return (yield)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    count = sum(database.transactions for database in set(_of_engines.values()))
    terminalreporter.write_line(f"rowcast has captured {count} transactions in {len(_databases)} databases")
