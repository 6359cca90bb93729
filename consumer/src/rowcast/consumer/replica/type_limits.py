"""Predict the values of a source that a replica's engine cannot hold.

The worker refuses each value on arrival and stops. ``rowcast check`` names the columns.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.engine import Dialect

from rowcast.consumer.replica.dialects import PlannedColumn, replica_dialect
from rowcast.consumer.replica.table_definitions import indexed_columns, planned_columns
from rowcast.shared.tables.shape import TableShape


def type_limits(shapes: Iterable[TableShape], dialect: Dialect) -> dict[str, list[str]]:
    """Return ``schema.table.column`` of the columns concerned, by the kind of the values."""
    replica = replica_dialect(dialect.name)
    found: dict[str, list[str]] = {}
    for shape in shapes:
        if replica.is_own_engine(shape.engine):
            continue
        indexed = indexed_columns(shape)
        for column, on_replica in zip(shape.columns, planned_columns(shape, replica, dialect), strict=True):
            planned = PlannedColumn(column, on_replica.type, dialect, column.name in indexed)
            for limit in replica.value_limits:
                if limit.applies_to(shape.engine, planned):
                    found.setdefault(limit.values, []).append(f"{shape.full_name}.{column.name}")
    return found
