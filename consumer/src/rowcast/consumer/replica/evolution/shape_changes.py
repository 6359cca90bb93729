"""Which changes of a table's shape a replica can follow, and which need a rebuild of the table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from rowcast.consumer.events.rebuild_hint import REBUILD_WITH_SNAPSHOT
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.shared.errors import DataError, RowcastError
from rowcast.shared.tables.shape import TableShape

# Types with equal forms of values in messages: a wide enough column takes all types of a set.
_ALIKE = (
    frozenset(("int16", "int32", "int64")),
    frozenset(("float32", "float64")),
    frozenset(("string", "text", "enum")),
)


class TableRebuildError(RowcastError):
    """Tables cannot follow the source, and a rebuild of these tables alone helps.

    ``tables``: the tables by ``schema.table``.
    """

    def __init__(self, message: str, tables: Collection[str]) -> None:
        super().__init__(message)
        self.tables = frozenset(tables)


class RetypedTablesError(TableRebuildError, DataError):
    """The primary key or the type of a column has changed."""


def require_compatible(changes: Iterable[tuple[TableShape, TableShape]], *, keys_only: bool = False) -> None:
    """Raise RetypedTablesError if the primary key of a table, or the type of a column, has changed.

    ``changes``: the shapes before and after. ``keys_only``: types may change.
    """
    found = [(after.full_name, change) for before, after in changes for change in _refused(before, after, keys_only)]
    if found:
        what = ", and ".join(change for _, change in found)
        tables = [table for table, _ in found]
        raise RetypedTablesError(f"{what}, which the replica cannot follow. {REBUILD_WITH_SNAPSHOT}", tables)


def require_same_key(layout: RowLayout, shape: TableShape) -> None:
    """Raise RetypedTablesError for events of an earlier primary key.

    Later events of the rows have new keys, so nothing would delete or replace the rows of the earlier events.
    """
    if layout.key != shape.primary_key:
        raise RetypedTablesError(
            f"the topic of table {shape.full_name} has events with the primary key ({', '.join(layout.key)}), and the "
            f"primary key is ({', '.join(shape.primary_key)}) now. {REBUILD_WITH_SNAPSHOT}",
            [shape.full_name],
        )


def _refused(before: TableShape, shape: TableShape, keys_only: bool) -> Iterator[str]:
    if before.primary_key != shape.primary_key:
        yield (
            f"the primary key of table {shape.full_name} has changed from ({', '.join(before.primary_key)}) to "
            f"({', '.join(shape.primary_key)})"
        )
    for name, type_before, type_after in [] if keys_only else _changed_types(before, shape):
        yield f"column {name} of table {shape.full_name} has changed from {type_before} to {type_after}"


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
