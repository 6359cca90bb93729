"""Every driver carries the statements that drivers execute differently."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from fixtures.databases import NewDatabase
from support.drivers import DriverEngine, with_driver
from support.shop import Shop

# The other tests use psycopg, PyMySQL and sqlite3.
_DRIVERS = {
    "psycopg2": "postgresql",
    "psycopg_async": "postgresql",
    "asyncpg": "postgresql",
    "pg8000": "postgresql",
    "mysqlconnector": "mariadb",
    "aiomysql": "mariadb",
    "asyncmy": "mariadb",
    "aiosqlite": "sqlite",
}

_metadata = sa.MetaData()
_item = sa.Table(
    "item 100%",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name 100%", sa.String(50), key="name", unique=True),
    sa.Column("body", sa.Text().with_variant(mysql.LONGTEXT, "mariadb", "mysql")),
    sa.Column("number", sa.Integer, server_default="7"),
)
# mysql-connector-python cannot send the values of MariaDB's own type.
_uuid_type = sa.Uuid().with_variant(sa.Uuid(native_uuid=False), "mariadb", "mysql")


def _keyed(name: str, type_: sa.types.TypeEngine[Any]) -> sa.Table:
    key = sa.Column("k", type_, primary_key=True, autoincrement=False)
    return sa.Table(name, _metadata, key, sa.Column("n", sa.Integer))


_uuid = _keyed("by_uuid", _uuid_type)
_float = _keyed("by_float", sa.Double())
_decimal = _keyed("by_decimal", sa.Numeric(10, 2))
_date = _keyed("by_date", sa.Date())

_INSERTS = {"postgresql": postgresql.insert, "mariadb": mysql.insert, "mysql": mysql.insert, "sqlite": sqlite.insert}


def _negative_keys(c: sa.Connection) -> None:
    c.execute(sa.insert(_item), [{"id": -1, "name": "n1"}, {"id": -2, "name": "n2"}])
    c.execute(sa.update(_item).where(_item.c.id == -1).values(id=-3))
    c.execute(sa.delete(_item).where(_item.c.id == -2))


def _write_keys(c: sa.Connection, table: sa.Table, keys: list[Any]) -> None:
    c.execute(sa.insert(table), [{"k": key, "n": n} for n, key in enumerate(keys)])
    change = sa.update(table).where(table.c.k == sa.bindparam("key"))
    c.execute(change.values(n=9), [{"key": key} for key in keys[:2]])
    c.execute(sa.delete(table).where(table.c.k.in_(keys[2:])))


def _uuid_keys(c: sa.Connection) -> None:
    _write_keys(c, _uuid, [uuid.UUID(int=n) for n in range(4)])


def _keys_of_several_python_types(c: sa.Connection) -> None:
    _write_keys(c, _float, [0.5, 0, 1.25, 7])
    _write_keys(c, _decimal, [Decimal("-0.50"), 0, Decimal("1.25"), 7])
    _write_keys(c, _date, [datetime(2026, 11, 30), date(2026, 12, 1), datetime(2026, 12, 2), date(2026, 12, 3)])


def _batches(c: sa.Connection) -> None:
    """Change enough rows for several batches, for the blocks of PostgreSQL."""
    c.execute(sa.insert(_item), [{"name": f"{n} %s 100%"} for n in range(1_100)])
    renamed = sa.update(_item).where(_item.c.name == sa.bindparam("old")).values(name=sa.bindparam("new"))
    c.execute(renamed, [{"old": f"{n} %s 100%", "new": f"renamed {n}"} for n in range(20)])
    c.execute(sa.delete(_item).where(_item.c.name == sa.bindparam("old")), [{"old": f"renamed {n}"} for n in range(10)])


def _one_update_of_many_rows(c: sa.Connection) -> None:
    assert c.execute(sa.update(_item).values(body=_item.c.name + " 'x' 100% %s %%")).rowcount >= 1_000


def _upserts(c: sa.Connection) -> None:
    insert: Any = _INSERTS[c.dialect.name](_item)
    for rows in ([{"name": "u1", "number": 1}], [{"name": "u1", "number": 2}, {"name": "u2", "number": 3}]):
        if c.dialect.name in ("mariadb", "mysql"):
            # PyMySQL, aiomysql and asyncmy take no parameters after the VALUES of an INSERT of many rows.
            c.execute(insert.on_duplicate_key_update(number=sa.literal_column("500", sa.Integer)), rows)
        else:
            c.execute(insert.on_conflict_do_update(index_elements=[_item.c.name], set_={"number": 500}), rows)


def _nulls_and_a_long_text(c: sa.Connection) -> None:
    c.execute(sa.insert(_item), {"name": None, "number": None})
    c.execute(sa.insert(_item), {"name": "long", "body": "ü'\\%" * 250_000})


def _savepoints(c: sa.Connection) -> None:
    c.execute(sa.insert(_item), {"name": "kept"})
    savepoint = c.begin_nested()
    c.execute(sa.insert(_item), {"name": "not kept"})
    c.execute(sa.update(_item).where(_item.c.name == "kept").values(number=99))
    savepoint.rollback()


_WORK = (
    _negative_keys,
    _uuid_keys,
    _keys_of_several_python_types,
    _batches,
    _one_update_of_many_rows,
    _upserts,
    _nulls_and_a_long_text,
    _savepoints,
)


def _named(driver: str | bool) -> str:
    """Return the name of a test's parameter, with the engine, so that `-k` chooses by engines."""
    return f"{_DRIVERS[driver]}-{driver}" if isinstance(driver, str) else str(driver)


Drive = Callable[[str], tuple[DriverEngine, Shop]]


@pytest.fixture(scope="module")
def drive(new_lasting_database: NewDatabase) -> Iterator[Drive]:
    """Return a function that returns the engine and the tables of a driver. The first call creates the tables."""
    driven: dict[str, tuple[DriverEngine, Shop]] = {}

    def of_driver(driver: str) -> tuple[DriverEngine, Shop]:
        if driver not in driven:
            engine = _DRIVERS[driver]
            opened = DriverEngine(with_driver(new_lasting_database(engine), driver, engine))
            models: Any = SimpleNamespace(metadata=_metadata)
            driven[driver] = opened, opened.run(Shop, opened.engine, models)
        return driven[driver]

    yield of_driver
    for opened, _ in driven.values():
        opened.close()


@pytest.mark.parametrize("driver", _DRIVERS, ids=_named)
def test_the_outbox_has_the_rows_as_stored_whatever_the_driver(drive: Drive, driver: str) -> None:
    opened, shop = drive(driver)

    def change() -> None:
        for work in _WORK:
            with shop.engine.begin() as connection:
                work(connection)
        with shop.engine.connect() as connection:
            connection.execute(sa.insert(_item), {"name": "rolled back"})
            connection.rollback()
        shop.take()
        assert shop.mirror == shop.rows()

    opened.run(change)


def _row_counts(connection: sa.Connection) -> list[int]:
    """Return the row counts that the driver reports for each kind of statement."""
    renamed = sa.update(_item).where(_item.c.name == sa.bindparam("old")).values(number=1)
    executed: list[tuple[Any, Any]] = [
        (sa.insert(_item), {"name": "one"}),
        (sa.insert(_item), [{"name": f"several {n}"} for n in range(3)]),
        (sa.insert(_item), [{"name": f"many {n}"} for n in range(110)]),
        (sa.insert(_item), [{"number": n} for n in range(110)]),
        (sa.insert(_item).values([{"name": "v1"}, {"name": "v2"}]), {}),
        (sa.update(_item).where(_item.c.name.in_(["one", "v1"])).values(number=2), {}),
        (renamed, [{"old": "v1"}, {"old": "none"}]),
        (sa.delete(_item).where(_item.c.name == sa.bindparam("old")), [{"old": "v1"}, {"old": "v2"}, {"old": "none"}]),
        (sa.delete(_item).where(_item.c.name == "one"), {}),
    ]
    return [connection.execute(statement, parameters).rowcount for statement, parameters in executed]


_RETURNS = [(driver, True) for driver in _DRIVERS]
_RETURNS += [(driver, False) for driver, engine in _DRIVERS.items() if engine == "mariadb"]


@pytest.mark.parametrize(("driver", "returns"), _RETURNS, ids=_named)
def test_the_row_counts_are_those_of_the_driver(drive: Drive, driver: str, returns: bool) -> None:
    """Compare statements with and without the capture. ``returns``: if False, MariaDB behaves like MySQL."""
    opened, shop = drive(driver)

    def count() -> list[int]:
        shop.engine.clear_compiled_cache()
        with shop.engine.connect() as connection:
            return _row_counts(connection)

    dialect: Any = shop.engine.dialect
    able = dialect.insert_returning
    dialect.insert_returning = able and returns
    try:
        captured = opened.run(count)
        shop.capture.uninstall(shop.sessions)
        assert captured == opened.run(count)
    finally:
        dialect.insert_returning = able
        shop.capture.install(shop.sessions)
