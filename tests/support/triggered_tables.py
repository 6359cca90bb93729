"""Create tables by SQL text, and capture them by triggers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
import sqlalchemy as sa

from rowcast.producer import Capture
from rowcast.producer.outbox.line_writer import key_image, row_image
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.triggers.install import install
from rowcast.producer.triggers.reflected_tables import ReflectedTables
from rowcast.shared.images import register_functions
from support.trigger_shop import plain_engine

Rows = dict[tuple[str, bytes], dict[str, Any]]


class TriggeredTables:
    """Hold the tables of one database, captured by triggers. ``settings``: of ``Capture(tables=…)``."""

    def __init__(
        self, engine: sa.Engine, names: tuple[str, ...], settings: Mapping[str, Any], ddl: tuple[str, ...]
    ) -> None:
        self.engine = engine
        metadata = sa.MetaData()
        Capture(metadata, source="tables")
        metadata.create_all(engine)
        self.execute(*ddl)
        with engine.begin() as connection:
            self.tables = ReflectedTables(None, settings).read(connection, [(None, name) for name in names])
        for table in self.tables:
            with engine.begin() as connection:
                install(connection, table)

    def execute(self, *statements: str) -> None:
        """Execute the statements in a transaction."""
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def changes(self) -> list[dict[str, Any]]:
        """Return the lines of the outbox."""
        with self.engine.connect() as connection:
            texts = connection.exec_driver_sql("SELECT changes FROM rowcast_outbox ORDER BY id").scalars().all()
        return [orjson.loads(line) for text in texts for line in text.splitlines()]

    def copied(self) -> Rows:
        """Return the rows that a replica would have."""
        rows: Rows = {}
        for change in self.changes():
            key = (change["t"], orjson.dumps(change["k"]))
            if change["op"] == "d":
                rows.pop(key, None)
            else:
                rows[key] = change["a"]
        return rows

    def stored(self) -> Rows:
        """Return the rows that the tables have."""
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "sqlite":
                register_functions(connection.connection.dbapi_connection)
            return dict(row for table in self.tables for row in _rows(connection, table))

    def assert_copied(self, *statements: str) -> None:
        """Execute the statements, and check that they changed rows and that the outbox has all rows as stored."""
        before = self.stored()
        self.execute(*statements)
        assert self.stored() != before, f"{statements} change nothing"
        assert self.copied() == self.stored(), statements


def _rows(connection: sa.Connection, table: CapturedTable) -> Iterator[tuple[tuple[str, bytes], dict[str, Any]]]:
    query = sa.select(key_image(table), row_image(table)).select_from(table.table)
    for key, row in connection.execute(query):
        yield (table.full_name, orjson.dumps(orjson.loads(key))), orjson.loads(row)


@contextmanager
def triggered_tables(
    url: str, *ddl: str, names: tuple[str, ...] = ("item",), settings: Mapping[str, Any] | None = None
) -> Iterator[TriggeredTables]:
    """Create tables by the DDL in an empty database, and install triggers on the tables with the names."""
    engine = plain_engine(sa.make_url(url))
    try:
        yield TriggeredTables(engine, names, settings or {}, ddl)
    finally:
        engine.dispose()
