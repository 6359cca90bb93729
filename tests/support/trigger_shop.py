"""Capture the tables of `shop` by triggers, and write to them by programs without rowcast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import sqlalchemy as sa

from rowcast.producer.triggers.install import install
from rowcast.producer.triggers.reflected_tables import ReflectedTables
from rowcast.shared.tables.own_tables import is_rowcast_table
from support.shop import Models, Shop


def declare(models: Models, *names: str) -> Models:
    """Declare the named tables as captured by triggers, or all tables if no name is given. Return the models."""
    for table in models.metadata.tables.values():
        if not names or table.name in names:
            table.info["rowcast"] = "triggers"
    return models


def install_on(engine: sa.Engine, metadata: sa.MetaData | None, names: Sequence[str], **options: Any) -> None:
    """Install the triggers of each table in a separate transaction, like ``rowcast triggers install``."""
    for name in names:
        with engine.begin() as connection:
            (table,) = ReflectedTables(metadata).read(connection, [(None, name)])
            install(connection, table, **options)


@cache
def shared_models() -> Models:
    """Return models that are captured by triggers. The caller must not change them."""
    return declare(Models())


class TriggerShop(Shop):
    """Run the shop with triggers as its capture. `other` is the engine of a program without rowcast.

    ``models``: models whose tables are declared as captured by triggers. ``only``: the names of the tables to create,
    for tests without the other tables.
    """

    def __init__(self, engine: sa.Engine, models: Models | None = None, only: Sequence[str] = ()) -> None:
        super().__init__(engine, models or shared_models(), created=True)
        tables = self.models.metadata.sorted_tables
        self.own_tables = [t for t in tables if not is_rowcast_table(t.name) and (not only or t.name in only)]
        rowcast_tables = [t for t in tables if is_rowcast_table(t.name)]
        self.models.metadata.create_all(engine, [*rowcast_tables, *self.own_tables], checkfirst=False)
        install_on(engine, self.models.metadata, [table.name for table in self.own_tables])
        self.other = plain_engine(engine.url)

    def execute(self, *statements: str) -> None:
        """Execute the statements in a transaction of the program without rowcast."""
        with self.other.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def execute_scalars(self, query: str) -> list[Any]:
        """Return the first column of the query's result."""
        with self.other.connect() as connection:
            return list(connection.exec_driver_sql(query).scalars())


def driver_connection(connection: sa.Connection) -> Any:
    """Return the driver's connection, for features that SQLAlchemy lacks."""
    return connection.connection.driver_connection


def plain_engine(url: sa.URL) -> sa.Engine:
    """Create an engine with enforced foreign keys."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def create_shared(connection: sa.PoolProxiedConnection, _record: object) -> None:
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA busy_timeout=30000")

    return engine


@contextmanager
def open_trigger_shop(url: str, models: Models | None = None, only: Sequence[str] = ()) -> Iterator[TriggerShop]:
    """Open a shop on an empty database. `TriggerShop` explains the arguments."""
    engine = plain_engine(sa.make_url(url))
    shop = TriggerShop(engine, models, only)
    try:
        yield shop
    finally:
        engine.dispose()
        shop.other.dispose()
