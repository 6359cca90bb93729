"""Run an application's work on any driver of an engine, asynchronous drivers among them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

T = TypeVar("T")

_FAMILIES = {"postgresql": ("postgresql",), "mysql": ("mariadb", "mysql"), "sqlite": ("sqlite",)}
DRIVERS = {
    "psycopg": "postgresql",
    "psycopg2": "postgresql",
    "psycopg_async": "postgresql",
    "asyncpg": "postgresql",
    "pg8000": "postgresql",
    "pymysql": "mysql",
    "mysqldb": "mysql",
    "mysqlconnector": "mysql",
    "aiomysql": "mysql",
    "asyncmy": "mysql",
    "pysqlite": "sqlite",
    "aiosqlite": "sqlite",
}
"""SQLAlchemy's names of the drivers, and of the dialect of each."""


LIMITS = {
    ("aiomysql", "mariadb", "bytes_key"): "aiomysql 0.3 cannot send bytes with PyMySQL 1.2",
    ("aiomysql", "mysql", "bytes_key"): "aiomysql 0.3 cannot send bytes with PyMySQL 1.2",
    ("mysqlconnector", "mariadb", "uuid_key"): "the driver cannot send MariaDB's UUIDs",
    ("mysqlconnector", "mariadb", "key_of_several_columns"): "the driver cannot send MariaDB's UUIDs",
}
"""Driver, engine and case of the matrix that fails without the capture too, with the reason."""


def engines_of(driver: str) -> tuple[str, ...]:
    """Return the engines that the driver connects to."""
    return _FAMILIES[DRIVERS[driver]]


def is_asynchronous(driver: str) -> bool:
    """Return whether the driver needs an event loop."""
    return sa.make_url(f"{DRIVERS[driver]}+{driver}://").get_dialect().is_async


def with_driver(url: str, driver: str | None, dialect: str | None = None) -> str:
    """Return the URL for another driver, or for its own driver if the name is None.

    ``dialect``: SQLAlchemy's name of the dialect, if it is not the driver's in ``DRIVERS``, but mariadb.
    """
    if driver is None:
        return url
    found = sa.make_url(url).set(drivername=f"{dialect or DRIVERS[driver]}+{driver}")
    return found.render_as_string(hide_password=False)


class DriverEngine:
    """Hold the engine of an application with any driver. The work on an asynchronous driver runs in one event loop."""

    def __init__(self, url: str) -> None:
        self._asynchronous: AsyncEngine | None = None
        if sa.make_url(url).get_dialect().is_async:
            self._asynchronous = create_async_engine(url)
            self._runner = asyncio.Runner()
            self.engine = self._asynchronous.sync_engine
        else:
            self.engine = sa.create_engine(url)

    def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return the result of work with the engine or its sessions."""
        if self._asynchronous is None:
            return work(*arguments)
        return self._runner.run(greenlet_spawn(work, *arguments))

    def close(self) -> None:
        """Close the connections, and the event loop."""
        self.run(self.engine.dispose)
        if self._asynchronous is not None:
            self._runner.close()
