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


def engines_of(driver: str) -> tuple[str, ...]:
    """Return the engines that the driver connects to."""
    return _FAMILIES[DRIVERS[driver]]


def with_driver(url: str, driver: str | None) -> sa.URL:
    """Return the URL for another driver, or for its own driver if the name is None."""
    found = sa.make_url(url)
    return found if driver is None else found.set(drivername=f"{DRIVERS[driver]}+{driver}")


class DriverEngine:
    """Hold the engine of an application with any driver. The work on an asynchronous driver runs in one event loop."""

    def __init__(self, url: sa.URL) -> None:
        self._asynchronous: AsyncEngine | None = None
        if url.get_dialect().is_async:
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
