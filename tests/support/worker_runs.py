"""Run the worker in tests, and read its results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from rowcast.consumer.running.run_worker import run_worker
from rowcast.consumer.worker.progress import WorkerProgress
from rowcast.shared.config.database_settings import PrimarySettings
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.images import RowImage, register_functions
from rowcast.shared.tables.shape import PortableType, TableShape
from rowcast.shared.tables.type_mapping import shape_of
from rowcast.shared.vitals import Vitals
from support.kafka_source import Source, column, shape

NAME = "copy"


def settings_for(source: str, bootstrap: str, replica_url: str, primary_url: str = "", **options: Any) -> Settings:
    """Return settings with one replica, named `copy`."""
    return Settings(
        source=source,
        kafka={"bootstrap.servers": bootstrap},
        primary=PrimarySettings(url=primary_url) if primary_url else None,
        replicas={NAME: ReplicaSettings(url=replica_url, **options)},
    )


def work_once(settings: Settings) -> WorkerProgress:
    """Apply all messages of the topics."""
    return run_worker(settings, NAME, once=True)


class RunningWorker:
    """Run a worker on a thread, and keep the last progress."""

    def __init__(self, settings: Settings) -> None:
        self.progress = WorkerProgress()
        self.vitals = Vitals("the worker")
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(settings,), daemon=True)
        self._thread.start()

    def _run(self, settings: Settings) -> None:
        try:
            run_worker(settings, NAME, stop=self._stop, on_progress=self._tell, vitals=self.vitals)
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def _tell(self, progress: WorkerProgress) -> None:
        self.progress = progress

    def until(self, condition: Callable[[WorkerProgress], bool], timeout: float = 60) -> WorkerProgress:
        """Wait until the worker's progress fulfils a condition. Return the progress."""
        deadline = time.monotonic() + timeout
        while not condition(self.progress):
            assert self._thread.is_alive(), f"the worker has ended: {self.error!r}"
            assert time.monotonic() < deadline, f"still {self.progress}"
            time.sleep(0.01)
        return self.progress

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


@contextmanager
def running_worker(settings: Settings) -> Iterator[RunningWorker]:
    """Run a worker until the block ends. Raises the error of a failed worker."""
    worker = RunningWorker(settings)
    try:
        yield worker
    finally:
        worker.stop()
    if worker.error is not None:
        raise worker.error


class Database:
    """Query a database."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url, "test", pooled=False)

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        """Return all rows as sorted tuples, with the named columns or all columns."""
        names: list[Any] = [sa.column(c) for c in columns] or [sa.text("*")]
        with self.engine.connect() as connection:
            found = connection.execute(sa.select(*names).select_from(sa.table(table)))
            return sorted((tuple(row) for row in found), key=repr)

    def tables(self) -> list[str]:
        """Return the names of all tables."""
        return sa.inspect(self.engine).get_table_names()

    def foreign_keys(self, table: str) -> list[Any]:
        """Return the foreign keys of a table."""
        return list(sa.inspect(self.engine).get_foreign_keys(table))

    def state(self) -> str:
        """Return the state of the replica."""
        return str(self.rows("rowcast_replica", "state")[0][0])

    def checkpoint(self) -> None:
        """Empty SQLite's write-ahead log."""
        with self.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)


class Primary:
    """Publish the rows of a real database without a capture, as the database stores them now."""

    def __init__(self, url: str, metadata: sa.MetaData) -> None:
        self.engine = open_engine(url, "primary", pooled=False)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", lambda connection, _: register_functions(connection))
        self._metadata = metadata
        self._written = sa.Table(
            "rowcast_shape",
            sa.MetaData(),
            sa.Column("table_name", sa.String(255), primary_key=True),
            sa.Column("version", sa.String(16), primary_key=True),
            sa.Column("created_ms", sa.BigInteger),
            sa.Column("shape", sa.Text),
        )
        metadata.create_all(self.engine)
        with self.engine.connect() as connection:
            schema = sa.inspect(connection).default_schema_name or "main"
            self.shapes = {t.name: shape_of(t, self.engine.dialect, schema) for t in metadata.sorted_tables}
        self._written.create(self.engine)
        with self.engine.begin() as connection:
            for one in self.shapes.values():
                row = {"table_name": one.full_name, "version": one.version, "created_ms": 1}
                connection.execute(sa.insert(self._written), row | {"shape": one.to_json().decode()})

    def publish(self, source: Source) -> None:
        """Publish all rows as one transaction of inserts."""
        source.add(*self.shapes.values())
        lines = []
        with self.engine.connect() as connection:
            for table in self._metadata.sorted_tables:
                one = self.shapes[table.name]
                image = RowImage([(c.name, table.c[c.name], c.type) for c in one.columns])
                for (text,) in connection.execute(sa.select(image).select_from(table)):
                    lines.append(("c", one.full_name, text))
        source.transaction(*lines)


CUSTOMER: TableShape = shape("customer", column("email", "text"), unique=[("email",)])
ORDERS: TableShape = shape(
    "orders",
    column("customer_id"),
    column("note", "text"),
    column("amount", PortableType("decimal", precision=10, scale=2)),
    refers=[("customer_id", "customer")],
)
