"""The primary or the replica, open for reading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from rowcast.consumer.replica.dialects import LIVE, ReplicaDialect, TableNaming, replica_dialect
from rowcast.consumer.verification.dialects import VerifyDialect, verify_dialect
from rowcast.shared.config.database_settings import DatabaseSettings
from rowcast.shared.database.engines import open_engine, reach, unreachable


class ComparedDatabase:
    """The primary or the replica, open for reading. ``label`` names the database in messages."""

    def __init__(self, settings: DatabaseSettings, label: str, naming: TableNaming = LIVE) -> None:
        """Connect once. ``naming``: the replica's names of tables. Raise UnreachableError and ConfigurationError."""
        self.label = label
        self.engine: Engine = open_engine(settings.sqlalchemy_url, label)
        self.dialect: ReplicaDialect = replica_dialect(self.engine.dialect.name, naming)
        self.sql: VerifyDialect = verify_dialect(self.engine.dialect.name)
        self.dialect.configure_reader(self.engine)
        self.sql.configure(self.engine)
        reach(self.engine, label)

    def is_like(self, other: ComparedDatabase) -> bool:
        """Return whether both databases are on one engine, so that equal values have equal row images."""
        return self.sql.are_alike(self.engine.dialect, other.engine.dialect)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a connection in which each statement is a transaction. Raise UnreachableError for a lost connection."""
        with self._connected() as connection:
            yield self.sql.begin_statements(connection)

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open a connection whose statements all see one moment. Raise UnreachableError for a lost connection."""
        with self._connected() as connection:
            yield self.sql.begin_snapshot(connection)
            connection.rollback()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            connection = self.engine.connect()
        except exc.DBAPIError as error:
            raise unreachable(self.engine, self.label, error) from error
        try:
            yield connection
        except exc.DBAPIError as error:
            if error.connection_invalidated:
                raise unreachable(self.engine, self.label, error) from error
            raise
        finally:
            connection.close()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
