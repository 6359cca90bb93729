"""What a campaign does with a database, beside the programs of rowcast: faults, and an operator's statements."""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

_WORKER = "worker"
_PASSWORD = "worker-secret"
_CONNECT_S = 5

Wait = Callable[[float], object]
"""Wait for some seconds."""


class Database(ABC):
    """Reach a database directly, without a proxy, with an operator's rights."""

    snapshot_options: Mapping[str, Any] = MappingProxyType({"isolation_level": "REPEATABLE READ"})
    """The options of a connection whose transaction reads a single state."""
    connect_args: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, url: str) -> None:
        self.move_to(url)

    def move_to(self, url: str) -> None:
        self.url = sa.make_url(url)
        # Each use connects again, because the server may have ended since.
        self.engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=dict(self.connect_args))

    @property
    def worker_url(self) -> sa.URL:
        return self.url

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Connect, and begin a transaction that reads a single state."""
        with self.engine.connect().execution_options(**self.snapshot_options) as connection:
            self._begin(connection)
            yield connection

    def execute(self, *statements: str) -> None:
        """Execute statements, each in a transaction of its own."""
        with self.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            for statement in statements:
                connection.exec_driver_sql(statement)

    def create_worker(self) -> None:
        """Create the user of the worker, with the rights that the documentation names. SQLite has no users."""
        return

    def read_only(self, seconds: float, wait: Wait) -> None:
        """Refuse writes for some seconds."""
        raise NotImplementedError(f"{self.url.get_backend_name()} has no such fault")

    @abstractmethod
    def lock_table(self, seconds: float, wait: Wait) -> None:
        """Hold a lock that blocks writes for some seconds."""

    def _begin(self, connection: sa.Connection) -> None:
        """Begin the transaction. Most engines do so with the first statement."""
        return


class PostgreSQLDatabase(Database):
    connect_args = MappingProxyType({"connect_timeout": _CONNECT_S})

    @property
    def worker_url(self) -> sa.URL:
        return self.url.set(username=_WORKER, password=_PASSWORD)

    def create_worker(self) -> None:
        self.execute(
            f"CREATE ROLE {_WORKER} LOGIN PASSWORD '{_PASSWORD}'", f"GRANT CREATE ON SCHEMA public TO {_WORKER}"
        )

    def read_only(self, seconds: float, wait: Wait) -> None:
        name = self.url.database
        end_sessions = (
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' "
            "AND pid <> pg_backend_pid()"
        )
        administration = PostgreSQLDatabase(self.url.set(database="postgres").render_as_string(hide_password=False))
        administration.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on", end_sessions)
        wait(seconds)
        _insist(
            lambda: administration.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only", end_sessions)
        )

    def lock_table(self, seconds: float, wait: Wait) -> None:
        with suppress(sa.exc.DBAPIError), self.engine.connect() as connection:
            connection.exec_driver_sql("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
            wait(seconds)


class MySQLFamily(Database):
    connect_args = MappingProxyType({"connect_timeout": _CONNECT_S, "read_timeout": 60})

    @property
    def worker_url(self) -> sa.URL:
        return self.url.set(username=_WORKER, password=_PASSWORD)

    def create_worker(self) -> None:
        rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES"
        user = f"{_WORKER}@'127.0.0.1'"
        self.execute(
            f"CREATE USER {user} IDENTIFIED BY '{_PASSWORD}'", f"GRANT {rights} ON {self.url.database}.* TO {user}"
        )

    def read_only(self, seconds: float, wait: Wait) -> None:
        self.execute("SET GLOBAL read_only = 1")
        wait(seconds)
        _insist(lambda: self.execute("SET GLOBAL read_only = 0"))

    def lock_table(self, seconds: float, wait: Wait) -> None:
        with suppress(sa.exc.DBAPIError), self.engine.connect() as connection:
            connection.exec_driver_sql("LOCK TABLES account WRITE")
            wait(seconds)
            connection.exec_driver_sql("UNLOCK TABLES")


class SQLiteDatabase(Database):
    snapshot_options = MappingProxyType[str, Any]({})
    connect_args = MappingProxyType({"timeout": 10})

    def lock_table(self, seconds: float, wait: Wait) -> None:
        assert self.url.database
        connection = sqlite3.connect(self.url.database, timeout=10, isolation_level=None)
        try:
            with suppress(sqlite3.OperationalError):
                connection.execute("BEGIN IMMEDIATE")
                wait(seconds)
        finally:
            connection.close()

    def _begin(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")


def _insist(action: Callable[[], None], seconds: float = 60.0) -> None:
    """Undo a fault, even if the server does not answer at once, because another fault has met it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except sa.exc.DBAPIError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
