"""An existing table of the replica, with the shape to follow."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy.engine import Inspector

from rowcast.consumer.replica.dialects import WORKER_PREFIX, ReplicaColumn, TableName
from rowcast.shared.tables.shape import TableShape


@dataclass(slots=True)
class EvolvingTable:
    """A table of the replica.

    ``before``: the recorded shape. ``created``: a worker created the table. ``columns``: the columns after the planned
    steps. ``indexes`` and ``foreign_keys``: the names of the worker's indexes and foreign keys.
    """

    shape: TableShape
    before: TableShape
    created: bool
    name: TableName
    columns: dict[str, ReplicaColumn]
    indexes: Collection[str] = ()
    foreign_keys: Collection[str] = ()


def add_constraints(inspector: Inspector, tables: Iterable[EvolvingTable]) -> None:
    """Read the names of the worker's constraints and indexes, in few statements where the engine can."""
    by_schema: dict[str | None, list[EvolvingTable]] = {}
    for table in tables:
        by_schema.setdefault(table.name[0], []).append(table)
    for schema, group in by_schema.items():
        names = [table.name[1] for table in group]
        indexes = inspector.get_multi_indexes(schema=schema, filter_names=names)
        keys = inspector.get_multi_foreign_keys(schema=schema, filter_names=names)
        for table in group:
            table.indexes = _of_worker(index["name"] for index in indexes.get(table.name, ()))
            table.foreign_keys = _of_worker(key["name"] for key in keys.get(table.name, ()))


def _of_worker(names: Iterable[str | None]) -> list[str]:
    return sorted(name for name in names if name and name.startswith(WORKER_PREFIX))
