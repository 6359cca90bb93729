"""The relay's own connections to the primary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from sqlalchemy.engine import Connection, Dialect, Engine

from rowcast.producer.sqlite_functions import ensure_functions
from rowcast.shared.types import engine_family

# Keys are written down as text on PostgreSQL; an hour in autumn has the same times twice, but not in UTC. A chunk is
# read in less time than its statement takes to compile.
_SNAPSHOT_SETTINGS = {
    "postgresql": (
        "datestyle = 'ISO'",
        "intervalstyle = 'postgres'",
        "extra_float_digits = 1",
        "timezone = 'UTC'",
        "jit = off",
    ),
    "mysql": ("time_zone = '+00:00'",),
}


# Whoever asks for more than that shall have it.
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"


class Connections:
    """``reader`` is in autocommit: each statement sees what is committed by then, and holds no lock and no snapshot.

    ``writer`` is for short transactions that touch the relay's own rows, by primary key, at READ COMMITTED: under
    MariaDB's REPEATABLE READ they would lock the gaps that the application inserts into. The server ends it when it
    has heard nothing for ``idle_ms`` within a transaction: a relay that stands still there holds the lease's row, and
    its successor would wait for it as long as it sleeps.
    """

    def __init__(self, engine: Engine, idle_ms: int = 5_000) -> None:
        self.dialect = engine.dialect
        self._engine = engine
        self._snapshots: Connection | None = None
        self._opened: list[Connection] = []
        try:
            self.reader = self._open(engine, "AUTOCOMMIT")
            self.writer = self._open(engine, None if engine.dialect.name == "sqlite" else "READ COMMITTED")
            for setting in _idle_settings(engine.dialect, idle_ms):
                self.writer.exec_driver_sql(f"SET SESSION {setting}")
            self.writer.commit()
            if engine.dialect.name == "postgresql":
                # A plan made while the outbox was empty would still sort all of it when it holds millions of rows.
                self.reader.exec_driver_sql("SET plan_cache_mode = force_custom_plan")
                self.reader.exec_driver_sql("SET enable_seqscan = off")
                # What cannot do without reading a table from end to end is dear by that, and the server would compile
                # it first: a tenth of a second for a look at ten rows.
                self.reader.exec_driver_sql("SET jit = off")
                # A claim that a crash takes back has lsns that workers have seen. And with it is durable what it found.
                for connection in (self.reader, self.writer):
                    connection.exec_driver_sql(_DURABLE)
                self.writer.commit()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A third connection, in a transaction that sees one moment of the database, and locks nothing."""
        if self._snapshots is None:
            isolation = None if self.dialect.name == "sqlite" else "REPEATABLE READ"
            self._snapshots = self._open(self._engine, isolation)
            for setting in _SNAPSHOT_SETTINGS.get(engine_family(self.dialect.name), ()):
                self._snapshots.exec_driver_sql(f"SET SESSION {setting}")
            self._snapshots.commit()
            ensure_functions(self._snapshots)
        connection = self._snapshots
        with connection.begin():
            if self.dialect.name == "sqlite":
                # The driver begins none before it reads.
                connection.exec_driver_sql("BEGIN")
            yield connection

    def _open(self, engine: Engine, isolation: str | None) -> Connection:
        connection = engine.connect()
        self._opened.append(connection)
        return connection.execution_options(isolation_level=isolation) if isolation else connection

    def close(self) -> None:
        """Closes them for good: the pool does not get a connection back that has the relay's settings."""
        for connection in self._opened:
            connection.invalidate()
            connection.close()
        self._opened.clear()

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _idle_settings(dialect: Dialect, idle_ms: int) -> tuple[str, ...]:
    """MySQL has none of the kind, nor has SQLite."""
    if dialect.name == "postgresql":
        return (f"idle_in_transaction_session_timeout = {idle_ms:d}",)
    if getattr(dialect, "is_mariadb", False):
        return (f"idle_transaction_timeout = {math.ceil(idle_ms / 1000):d}",)
    return ()
