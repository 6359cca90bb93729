"""The small application of `shop`, its tables captured by triggers, and programs that know nothing of rowcast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from rowcast.producer.outbox import PREFIX
from rowcast.producer.triggers.definitions import Definitions
from rowcast.producer.triggers.installing import install
from shop import Models, Shop


def declare(models: Models, *names: str) -> Models:
    """The models, with the tables of these names (all, if none is named) declared as captured by triggers."""
    for table in models.metadata.tables.values():
        if not names or table.name in names:
            table.info["rowcast"] = "triggers"
    return models


def install_on(engine: sa.Engine, metadata: sa.MetaData | None, names: Sequence[str], **options: bool) -> None:
    """Each in a transaction, as the command does."""
    for name in names:
        with engine.begin() as connection:
            (table,) = Definitions(metadata).read(connection, [(None, name)])
            install(connection, table, **options)


class TriggerShop(Shop):
    """`other` is an engine of another program's."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine, declare(Models()))
        own = [t.name for t in self.models.metadata.sorted_tables if not t.name.startswith(PREFIX)]
        install_on(engine, self.models.metadata, own)
        self.other = plain_engine(engine.url)

    def execute(self, *statements: str) -> None:
        """As one transaction of the other program."""
        with self.other.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def execute_scalars(self, query: str) -> list[Any]:
        """The first column of what it finds."""
        with self.other.connect() as connection:
            return list(connection.exec_driver_sql(query).scalars())


def plain_engine(url: sa.URL) -> sa.Engine:
    """With foreign keys in force."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def prepare(connection: sa.PoolProxiedConnection, _record: object) -> None:
            connection.execute("PRAGMA foreign_keys=ON")  # type: ignore[attr-defined]
            connection.execute("PRAGMA busy_timeout=30000")  # type: ignore[attr-defined]

    return engine


@contextmanager
def open_trigger_shop(url: str) -> Iterator[TriggerShop]:
    engine = plain_engine(sa.make_url(url))
    shop = TriggerShop(engine)
    try:
        yield shop
    finally:
        engine.dispose()
        shop.other.dispose()
