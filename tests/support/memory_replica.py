"""Apply events to a replica in memory (SQLite), for unit tests of the worker's writing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rowcast.consumer.replica import positions
from rowcast.consumer.replica.applier import Applier
from rowcast.consumer.replica.constraints import Constraints
from rowcast.consumer.replica.dialects import ReplicaDialect, replica_dialect
from rowcast.consumer.replica.positions import Positions
from rowcast.consumer.replica.tables import ReplicaTables
from rowcast.consumer.replica.worker_tables import METADATA
from rowcast.shared.database.engines import open_engine
from rowcast.shared.tables.shape import TableShape


@dataclass
class MemoryReplica:
    """Hold the objects with which a worker of epoch 1 writes to the replica."""

    connection: sa.Connection
    dialect: ReplicaDialect
    tables: ReplicaTables
    constraints: Constraints
    positions: Positions
    applier: Applier

    def prepare(self, *shapes: TableShape) -> None:
        with self.connection.begin():
            self.tables.prepare(self.connection, shapes)

    def execute(self, sql: str) -> None:
        with self.connection.begin():
            self.connection.exec_driver_sql(sql)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        with self.connection.begin():
            return sorted(tuple(row) for row in self.connection.exec_driver_sql(f"SELECT * FROM {table}"))


@contextmanager
def memory_replica(*shapes: TableShape, epoch: int = 1) -> Iterator[MemoryReplica]:
    """Create the worker's tables and the tables of these shapes. ``epoch``: 0 makes a fenced worker."""
    engine = open_engine("sqlite://", "replica")
    dialect = replica_dialect("sqlite")
    dialect.configure(engine)
    tables = ReplicaTables("shop", dialect)
    with engine.connect() as connection:
        with connection.begin():
            METADATA.create_all(connection)
            stamp = positions.take_over(connection, "shop", "test").stamp
        own = Positions("shop", epoch, stamp, dialect)
        replica = MemoryReplica(
            connection, dialect, tables, Constraints(dialect, tables), own, Applier(dialect, tables, own)
        )
        replica.prepare(*shapes)
        yield replica
    engine.dispose()
