"""The claim to a replica: a lock of the server or the kernel. The lock ends with the worker.

A killed worker loses all connections, so the claim is free at once. A suspended worker, or a worker lost by the
network, sends nothing. The server then ends the session after the length of the lease.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from rowcast.shared.database.sockets import cut


class ClaimSession(ABC):
    """Hold a claim in a session of its own.

    Only a single thread at a time may use the session, except for ``close``.
    """

    @abstractmethod
    def take(self) -> bool:
        """Return whether the session has got the claim. Raise the driver's errors."""

    @abstractmethod
    def keep(self) -> bool:
        """Show that the worker lives. Return whether the session still has the claim. Raise the driver's errors."""

    @abstractmethod
    def close(self) -> None:
        """End the session, and the claim with it, even if another thread waits for the session."""


class _ServerClaim(ClaimSession):
    def __init__(self, engine: Engine, source: str, lease_s: float) -> None:
        self._engine = engine
        self._parameters = {"source": source, "lease_ms": str(math.ceil(lease_s * 1000))}
        self._lease_s = lease_s
        self._connection: Connection | None = None

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = self._engine.connect()
            self._set_up(connection)
            self._connection = connection
        return self._connection

    def _set_up(self, connection: Connection) -> None:
        """Set a new session up."""

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None or connection.closed or connection.invalidated:
            return
        # The socket first, because another thread may be waiting for an answer, and the server frees the claim then.
        cut(connection.connection.dbapi_connection)
        connection.invalidate()
        connection.close()


_POSTGRESQL_TAKE = sa.text(
    "SELECT set_config('idle_in_transaction_session_timeout', :lease_ms, true), pg_try_advisory_xact_lock("
    "CAST(CAST('x' || left(md5('rowcast ' || coalesce(current_schema(), '') || ' ' || :source), 16) AS bit(64)) "
    "AS bigint))"
)


class PostgreSQLClaim(_ServerClaim):
    """Hold an advisory lock in a transaction.

    The transaction has no snapshot and no id, so VACUUM is not held up. A pooler keeps a transaction in one session,
    and the server ends an idle transaction after the length of the lease.
    """

    def take(self) -> bool:
        connection = self._connected()
        if connection.execute(_POSTGRESQL_TAKE, self._parameters).one()[1]:
            return True
        connection.rollback()
        return False

    def keep(self) -> bool:
        self._connected().exec_driver_sql("SELECT 1")
        return True


# New versions of MySQL have no SHA1.
_MYSQL_NAME = "CONCAT('rowcast-', LEFT(SHA2(CONCAT(COALESCE(DATABASE(), ''), ' ', :source), 256), 40))"
_MYSQL_TAKE = sa.text(f"SELECT GET_LOCK({_MYSQL_NAME}, 0)")
_MYSQL_KEEP = sa.text(f"SELECT IS_USED_LOCK({_MYSQL_NAME}) = CONNECTION_ID()")


class MySQLClaim(_ServerClaim):
    """Hold a lock of GET_LOCK. The server ends an idle session after the length of the lease."""

    def _set_up(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"SET SESSION wait_timeout = {math.ceil(self._lease_s):d}")

    def take(self) -> bool:
        return self._connected().execute(_MYSQL_TAKE, self._parameters).scalar() == 1

    def keep(self) -> bool:
        return self._connected().execute(_MYSQL_KEEP, self._parameters).scalar() == 1


class SQLiteClaim(ClaimSession):
    """Lock a file beside the database. The kernel ends the lock with the process.

    No server ends the lock of a suspended worker. Therefore the holder touches the file, and another worker replaces a
    file untouched for the length of the lease. Two workers that replace the file at once both have a lock for a moment,
    until a worker finds another file in the place of its own.
    """

    def __init__(self, database: str, source: str, lease_s: float) -> None:
        self._path = Path(f"{database}-rowcast-{source}")
        self._lease_s = lease_s
        self._connection: sqlite3.Connection | None = None
        self._file = 0

    def take(self) -> bool:
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            # Nothing is ever written, so no journal is needed beside the file.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            connection.close()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            with suppress(OSError):
                # The next attempt creates the file again. Windows keeps the file of a living process.
                if time.time() - self._path.stat().st_mtime > self._lease_s:
                    self._path.unlink()
            return False
        self._connection = connection
        self._path.touch()
        self._file = self._path.stat().st_ino
        return True

    def keep(self) -> bool:
        try:
            if self._path.stat().st_ino != self._file:
                return False
            os.utime(self._path)
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class NoClaim(ClaimSession):
    """Claim a database in memory, which no other process can reach."""

    def take(self) -> bool:
        return True

    def keep(self) -> bool:
        return True

    def close(self) -> None:
        pass
