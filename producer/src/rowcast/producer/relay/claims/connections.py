"""The relay's own connections to the primary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from sqlalchemy.engine import Connection, Engine

from rowcast.producer.database.dialects import capture_dialect


class Connections:
    """Hold the connections of one relay.

    ``reader`` is in autocommit: each statement sees the commits before it, and holds no lock and no database snapshot.

    ``writer`` is for short transactions that touch the relay's own rows by primary key, at READ COMMITTED. MariaDB's
    REPEATABLE READ would lock the gaps that the application inserts into. The server ends the connection if a
    transaction is idle for ``idle_ms``: a suspended relay would hold a lock on the lease's row, and the successor would
    wait for the lock.
    """

    def __init__(self, engine: Engine, idle_ms: int = 5_000) -> None:
        self.dialect = engine.dialect
        self._engine = engine
        self._dialect = own = capture_dialect(engine.dialect)
        self._snapshots: Connection | None = None
        self._opened: list[Connection] = []
        try:
            self.reader = self._open(engine, "AUTOCOMMIT")
            self.writer = self._open(engine, own.writer_isolation)
            own.prepare_writer(self.writer, idle_ms)
            self.writer.commit()
            own.prepare_reader(self.reader)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open a transaction on a third connection. The transaction sees one moment of the database, without locks."""
        if self._snapshots is None:
            self._snapshots = self._open(self._engine, self._dialect.snapshot_isolation)
            self._dialect.prepare_row_reader(self._snapshots)
            self._snapshots.commit()
            self._dialect.ensure_functions(self._snapshots)
        connection = self._snapshots
        with connection.begin():
            self._dialect.begin_snapshot(connection)
            yield connection

    def _open(self, engine: Engine, isolation: str | None) -> Connection:
        connection = engine.connect()
        self._opened.append(connection)
        return connection.execution_options(isolation_level=isolation) if isolation else connection

    def close(self) -> None:
        """Close all connections, and keep them out of the pool because they have the relay's settings."""
        for connection in self._opened:
            connection.invalidate()
            connection.close()
        self._opened.clear()

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
