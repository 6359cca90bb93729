"""Predict the values of a source that a replica's engine cannot hold.

The worker refuses each value on arrival and stops. ``rowcast check`` names the columns.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.engine import Dialect

from rowcast.consumer.replica.dialects import PlannedColumn, replica_dialect
from rowcast.consumer.replica.table_definitions import indexed_columns
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.type_mapping import replica_type


def type_limits(shapes: Iterable[TableShape], dialect: Dialect) -> dict[str, list[str]]:
    """Return ``schema.table.column`` of the columns concerned, by the kind of the values."""
    replica = replica_dialect(dialect.name)
    found: dict[str, list[str]] = {}
    for shape in shapes:
        if replica.is_own_engine(shape.engine):
            continue
        indexed = indexed_columns(shape)
        for column in shape.columns:
            is_key = column.name in indexed
            planned = PlannedColumn(
                column, replica_type(column.type, shape.engine, dialect, key=is_key), dialect, is_key
            )
            for limit in replica.value_limits:
                if limit.applies_to(shape.engine, planned):
                    found.setdefault(limit.values, []).append(f"{shape.full_name}.{column.name}")
    return found
