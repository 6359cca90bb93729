"""Which changes of a table's shape a replica can follow."""

from __future__ import annotations

from rowcast.consumer.events.rebuild_hint import REBUILD_WITH_SNAPSHOT
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import TableShape

# Types whose values have the same form in messages: a wide enough column takes both.
_ALIKE = (
    frozenset(("int16", "int32", "int64")),
    frozenset(("float32", "float64")),
    frozenset(("string", "text", "enum")),
)


def require_compatible(before: TableShape, shape: TableShape) -> None:
    """Raise DataError if the primary key or the type of a column has changed."""
    require_same_key(before, shape)
    for name, type_before, type_after in _changed_types(before, shape):
        raise DataError(
            f"column {name} of table {shape.full_name} has changed from {type_before} to {type_after}, which the "
            f"replica cannot follow. {REBUILD_WITH_SNAPSHOT}"
        )


def require_same_key(before: TableShape, shape: TableShape) -> None:
    """Raise DataError if the primary key has changed."""
    if before.primary_key != shape.primary_key:
        raise DataError(
            f"the primary key of table {shape.full_name} has changed from ({', '.join(before.primary_key)}) to "
            f"({', '.join(shape.primary_key)}), which the replica cannot follow. "
            f"{REBUILD_WITH_SNAPSHOT}"
        )


def _changed_types(before: TableShape, after: TableShape) -> list[tuple[str, str, str]]:
    """Return name, type before and type after of the columns in both shapes that have another type."""
    types = {column.name: column.type.name for column in before.columns}
    return [
        (column.name, types[column.name], column.type.name)
        for column in after.columns
        if column.name in types and not _are_alike(types[column.name], column.type.name)
    ]


def _are_alike(before: str, after: str) -> bool:
    return before == after or any(before in types and after in types for types in _ALIKE)
