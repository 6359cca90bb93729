"""Apply messages to a replica on a real server without Kafka, in the way of the worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from rowcast.consumer.events.change import Change, read_change
from rowcast.consumer.events.position import Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.replica.connection import Replica
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.tables.shape import TableShape
from support.kafka_source import Line
from support.memory_topics import MemorySource
from support.worker_runs import Database

_PARTITION = ("topic", 0)


class DirectReplica:
    """Hold a replica, and the shapes and the lsn of its source."""

    def __init__(self, url: str, **options: Any) -> None:
        self.database = Database(url)
        self._layouts = RowLayouts()
        self._source = MemorySource()
        self._lsn = 0
        self._settings = ReplicaSettings(url=url, **options)
        self.replica = self._open()

    def _open(self) -> Replica:
        replica = Replica("shop", "copy", self._settings, self._layouts)
        replica.take_over()
        return replica

    def begin(self, *shapes: TableShape) -> None:
        """Create the tables, and make the empty replica consistent."""
        self.add(*shapes)
        self.replica.prepare()
        assert self.replica.become_consistent()

    def restart(self, **options: Any) -> None:
        """Prepare the tables like a worker that starts again. ``options``: changed settings of the replica."""
        self.replica.close()
        self._settings = self._settings.model_copy(update=options)
        self.replica = self._open()
        self.replica.prepare()

    def add(self, *shapes: TableShape) -> None:
        """Publish shapes."""
        for shape in shapes:
            self._lsn += 1
            self._source.shapes[shape.full_name] = shape
            self._layouts.add(shape.version, shape, self._lsn)

    def apply(self, *lines: Line, by_key: bool = False) -> None:
        """Apply a transaction. The lines are those of ``Source.transaction``."""
        self.apply_changes(*(self.change(*line) for line in lines), by_key=by_key)

    def apply_changes(self, *changes: Change, by_key: bool = False) -> None:
        """Apply a transaction of these changes."""
        self._lsn += 1
        positions = {_PARTITION: Position(self._lsn, self._lsn)}
        self.replica.apply(Run([Transaction(str(self._lsn), self._lsn, 1, list(changes), positions, by_key)]))

    def change(self, op: str, table: str, row: dict[str, Any] | str) -> Change:
        """Return the change that the worker reads from a message."""
        shape = self._source.shapes[table if "." in table else f"public.{table}"]
        columns = orjson.loads(row) if isinstance(row, str) else row
        key = orjson.dumps({name: columns[name] for name in shape.primary_key})
        self._lsn += 1
        value = self._source.envelope(op, shape, row, self._lsn, "7", 1, 1)
        change = read_change(key, value, _PARTITION, self._lsn, self._layouts)
        assert change is not None
        return change

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        return self.database.rows(table, *columns)


@contextmanager
def direct_replica(url: str, *shapes: TableShape, **options: Any) -> Iterator[DirectReplica]:
    """Open a replica that is consistent, or still loading if no shape is given. ``options``: settings."""
    direct = DirectReplica(url, **options)
    try:
        if shapes:
            direct.begin(*shapes)
        yield direct
    finally:
        direct.replica.close()
