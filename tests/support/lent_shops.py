"""Lend a shop to one test after the other, because mapping and tables take more time than most tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.producer import Capture
from support.shop import Models, Shop, shop_engine
from support.trigger_shop import TriggerShop, plain_engine


class ShopLender:
    """Keep a mapping, and databases with the mapping's tables.

    A borrower must not change tables, and must take its listeners off the engine.
    """

    def __init__(self, new_database: NewDatabase) -> None:
        self._new_database = new_database
        self._models = Models()
        Capture(self._models.metadata, source="shop")  # It adds the tables of rowcast.
        self._engines: dict[str, sa.Engine] = {}
        self._warm: dict[str, Shop] = {}

    @contextmanager
    def lend(self, name: str, **options: Any) -> Iterator[Shop]:
        """Lend a shop on the kind of database, with empty tables and a new capture.

        ``options``: arguments of ``Capture``.
        """
        engine = self._engines.pop(name, None) or self._open(name)
        shop = Shop(engine, self._models, created=True, **options)
        try:
            yield shop
        finally:
            shop.capture.uninstall(shop.sessions)
            if _is_returned(engine):
                empty_tables(engine, self._models.metadata.sorted_tables)
                self._engines[name] = engine
            engine.dispose()

    @contextmanager
    def lend_warm(self, name: str) -> Iterator[Shop]:
        """Lend a shop like ``lend``, with the capture of earlier borrowers. It knows most tables and statements."""
        shop = self._warm.pop(name, None) or Shop(self._open(name), self._models, created=True)
        try:
            yield shop
        finally:
            if _is_returned(shop.engine):
                # The capture knows that the shapes are committed.
                shape = self._models.metadata.tables["rowcast_shape"]
                empty_tables(shop.engine, [t for t in self._models.metadata.sorted_tables if t is not shape])
                shop.mirror.clear()
                self._warm[name] = shop
            shop.engine.dispose()

    def _open(self, name: str) -> sa.Engine:
        engine = shop_engine(self._new_database(name))
        self._models.metadata.create_all(engine, checkfirst=False)
        return engine


class TriggerShopLender:
    """Keep a shop with triggers for each kind of database.

    A borrower must drop what it creates in the database, and must not change the models.
    """

    def __init__(self, new_database: NewDatabase) -> None:
        self._new_database = new_database
        self._shops: dict[str, TriggerShop] = {}

    @contextmanager
    def lend(self, name: str) -> Iterator[TriggerShop]:
        """Lend the shop on the kind of database, with empty tables."""
        shop = self._shops.pop(name, None) or self._open(name)
        try:
            yield shop
        finally:
            if _is_returned(shop.engine) and _is_returned(shop.other):
                # Triggers write into the outbox while the other tables are emptied, so the outbox comes last.
                empty_tables(shop.engine, [shop.outbox, *shop.own_tables])
                shop.mirror.clear()
                self._shops[name] = shop
            shop.engine.dispose()
            shop.other.dispose()

    def _open(self, name: str) -> TriggerShop:
        return TriggerShop(plain_engine(sa.make_url(self._new_database(name))))


def _is_returned(engine: sa.Engine) -> bool:
    """Return False if a failed test holds a connection, whose locks could stop the next borrower."""
    assert isinstance(engine.pool, sa.QueuePool)
    return not engine.pool.checkedout()


def empty_tables(engine: sa.Engine, tables: Iterable[sa.Table]) -> None:
    """Delete all rows of tables, given in the order of their creation. Let generated ids begin at 1 again.

    The driver's connection is used, because a capture must not see it. TRUNCATE would take ten times as long.
    """
    deletes = [f"DELETE FROM {table.name}" for table in reversed(list(tables))]
    with closing(engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
        match engine.dialect.name:
            case "postgresql":
                # This role calls no triggers and checks no foreign keys.
                cursor.execute("SET LOCAL session_replication_role = replica")
                cursor.execute(";".join(deletes))
                cursor.execute("SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence")
            case "mysql":
                cursor.execute("SET FOREIGN_KEY_CHECKS = 0")
                for delete in deletes:
                    cursor.execute(delete)
                if not getattr(engine.dialect, "is_mariadb", False):
                    cursor.execute("SET information_schema_stats_expiry = 0")
                advanced = "table_schema = DATABASE() AND auto_increment > 1"
                cursor.execute(f"SELECT table_name FROM information_schema.tables WHERE {advanced}")
                for (name,) in cursor.fetchall():
                    cursor.execute(f"ALTER TABLE `{name}` AUTO_INCREMENT = 1")
            case "sqlite":
                for delete in [*deletes, "DELETE FROM sqlite_sequence"]:
                    cursor.execute(delete)
        connection.commit()
