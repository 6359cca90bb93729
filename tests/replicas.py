"""Running the worker in tests, and looking at what it made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from rowcast.consumer.progress import WorkerProgress
from rowcast.consumer.worker import run_worker
from rowcast.shared.config import PrimarySettings, ReplicaSettings, Settings
from rowcast.shared.databases import open_engine
from rowcast.shared.images import RowImage, register_functions
from rowcast.shared.shapes import PortableType, TableShape
from rowcast.shared.types import shape_of
from topics import Source, column, shape

NAME = "copy"


def settings_for(source: str, bootstrap: str, replica_url: str, primary_url: str = "", **options: Any) -> Settings:
    """A configuration with one replica, called `copy`."""
    return Settings(
        source=source,
        kafka={"bootstrap.servers": bootstrap},
        primary=PrimarySettings(url=primary_url) if primary_url else None,  # type: ignore[arg-type]
        replicas={NAME: ReplicaSettings(url=replica_url, **options)},  # type: ignore[arg-type]
    )


def work_once(settings: Settings) -> WorkerProgress:
    """Applies all that is in the topics."""
    return run_worker(settings, NAME, once=True)


class RunningWorker:
    """A worker on a thread, and the last that it told."""

    def __init__(self, settings: Settings) -> None:
        self.progress = WorkerProgress()
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(settings,), daemon=True)
        self._thread.start()

    def _run(self, settings: Settings) -> None:
        try:
            run_worker(settings, NAME, stop=self._stop, on_progress=self._tell)
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def _tell(self, progress: WorkerProgress) -> None:
        self.progress = progress

    def until(self, condition: Callable[[WorkerProgress], bool], timeout: float = 60) -> WorkerProgress:
        """Waits for the worker to tell something."""
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
    """Runs for the length of the block; fails if the worker did."""
    worker = RunningWorker(settings)
    try:
        yield worker
    finally:
        worker.stop()
    if worker.error is not None:
        raise worker.error


class Database:
    """A database to look into."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url, "test", pooled=False)

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        """Every row, as tuples, by its first column."""
        names = [sa.column(c) for c in columns] or [sa.text("*")]
        with self.engine.connect() as connection:
            found = connection.execute(sa.select(*names).select_from(sa.table(table)))
            return sorted((tuple(row) for row in found), key=repr)

    def state(self) -> str:
        """Of the replica."""
        return str(self.rows("rowcast_replica", "state")[0][0])

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)


class Primary:
    """A real database as the source's, without a capture: its rows are published as they are stored now."""

    def __init__(self, url: str, metadata: sa.MetaData) -> None:
        self.engine = open_engine(url, "primary", pooled=False)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", lambda connection, _: register_functions(connection))
        self._metadata = metadata
        self._written = sa.Table(
            "rowcast_shape",
            sa.MetaData(),
            sa.Column("table_name", sa.String(255)),
            sa.Column("version", sa.String(16)),
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
        """All rows as one transaction of inserts."""
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
