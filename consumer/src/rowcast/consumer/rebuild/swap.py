"""Put the fresh tables in the place of the replica's tables, all at once and together with their positions."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from rowcast.consumer.rebuild.dialects import SwapDialect, swap_dialect
from rowcast.consumer.rebuild.swapped_table import SwappedTable
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.dialects import Fault, replica_dialect
from rowcast.consumer.replica.positions import ReplicaRow, read_row
from rowcast.consumer.replica.table_swap import move_rows, settle_swap, swap_mark, swap_token
from rowcast.consumer.replica.worker_tables import ROWCAST_REPLICA
from rowcast.shared.backoff import Backoff
from rowcast.shared.errors import FencedError, RetriableError

_log = logging.getLogger("rowcast.rebuild")

_LOG_S = 10.0


class TableSwap:
    """Swap the tables of one source in a replica's database.

    ``fresh_source``: the value of ``source`` in the worker's tables for the fresh tables. ``label`` names the database
    in messages.
    """

    def __init__(self, engine: Engine, source: str, fresh_source: str, label: str) -> None:
        self._engine = engine
        self._source = source
        self._fresh_source = fresh_source
        self._label = label
        self.replica_dialect = replica_dialect(engine.dialect.name)
        self.replica_dialect.configure(engine)
        self._dialect: SwapDialect = swap_dialect(engine.dialect.name)

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Yield a new connection, in which foreign keys count. Raise RetriableError for a transient error."""
        try:
            with self._engine.connect() as connection:
                self.replica_dialect.set_consistency(connection, consistent=True)
                yield connection
        except exc.DBAPIError as error:
            if self.replica_dialect.classify(error) in (Fault.LOST, Fault.TRANSIENT):
                raise RetriableError(f"{self._label}: {self.replica_dialect.reason(error)}") from error
            raise

    def obstacles(self, tables: Sequence[SwappedTable], rest: Sequence[SwappedTable] = ()) -> list[str]:
        """Return what depends on the live tables and cannot follow the swap. ``rest``: the worker's other tables."""
        with self.connected() as connection:
            return self._dialect.obstacles(connection, tables, rest)

    def complete(self, tables: Sequence[SwappedTable], *, is_part: bool) -> None:
        """Give the fresh tables the user's indexes and rights of the live tables. ``is_part``: other tables stay."""
        with self.connected() as connection:
            self._dialect.complete(connection, tables, is_part=is_part)

    def wait_for_snapshots(self, stop: threading.Event) -> None:
        """Wait for the end of every session that could see incomplete fresh tables."""
        logged_at, backoff = 0.0, Backoff(0.05, 1.0)
        while not stop.is_set():
            with self.connected() as connection:
                sessions = self._dialect.wait_for_snapshots(connection)
            if not sessions:
                return
            if time.monotonic() - logged_at > _LOG_S:
                logged_at = time.monotonic()
                _log.info("waiting for the end of transactions that began before: %s", ", ".join(sessions))
            stop.wait(backoff.next_pause())

    def try_to_swap(self, live: Replica, fresh: ReplicaRow, tables: Sequence[SwappedTable]) -> None:
        """Swap once. ``live``: the replica, which was taken over. ``fresh``: the row of the fresh tables.

        Raise RetriableError if readers hold a table. Nothing has changed then.
        """
        with self.connected() as connection:
            if self.replica_dialect.has_transactional_ddl:
                with live.own_transaction(connection):
                    self._require_unchanged(connection, fresh)
                    self._dialect.swap(connection, tables)
                    move_rows(connection, self._source)
            else:
                self._rename(connection, live, fresh, tables)

    def _rename(self, connection: Connection, live: Replica, fresh: ReplicaRow, tables: Sequence[SwappedTable]) -> None:
        """Swap on an engine that commits a RENAME at once. See ``replica.table_swap``."""
        token = swap_token(self._source)
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {token}")
        # Before the comparison of the epochs, because a worker that takes over later drops the token.
        connection.exec_driver_sql(f"CREATE TABLE {token} (id INTEGER PRIMARY KEY) ENGINE = InnoDB")
        connection.commit()
        with live.own_transaction(connection):
            self._require_unchanged(connection, fresh)
        self._dialect.swap(connection, tables, [(token, swap_mark(self._source))])
        connection.commit()
        settle_swap(connection, self._source)

    def _require_unchanged(self, connection: Connection, fresh: ReplicaRow) -> None:
        """Lock the row of the fresh tables. Raise FencedError if another rebuild has taken them over."""
        row = ROWCAST_REPLICA.c
        is_same = (row.source == self._fresh_source) & (row.epoch == fresh.epoch) & (row.stamp == fresh.stamp)
        if connection.execute(sa.select(row.epoch).where(is_same).with_for_update()).first() is None:
            raise FencedError("another process has taken over the fresh tables. Run rowcast rebuild again")

    def is_done(self) -> bool:
        """Return whether the fresh tables are those of the replica now."""
        with self.connected() as connection:
            if not self.replica_dialect.has_transactional_ddl and settle_swap(connection, self._source):
                return True
            with connection.begin():
                return read_row(connection, self._fresh_source) is None

    def drop(self, names: Sequence[tuple[str | None, str]]) -> None:
        """Drop tables by schema and name."""
        with self.connected() as connection:
            self.replica_dialect.set_consistency(connection, consistent=False)
            self._dialect.drop(connection, names)
