"""The defaults of a replica's columns, so that rows of older shapes get the values of the source.

A source with a new column gives existing rows the default of the column, without an event.
"""

from __future__ import annotations

from rowcast.consumer.replica.dialects import ReplicaDialect
from rowcast.consumer.replica.dialects.default_sql import default_sql
from rowcast.shared.tables.shape import ColumnShape, TableShape

# The other forms have another value for each row, or the time of the migration.
_SAME_FOR_ALL_ROWS = frozenset(("number", "string", "boolean"))
# Types with texts valid on some engines only, for example 0000-00-00 on MySQL.
_STRICT_TYPES = frozenset(("date", "json"))


def shared_default(shape: TableShape, column: ColumnShape, replica: ReplicaDialect, type_: str) -> str:
    """Return the SQL of a default with one value for all rows, or "".

    ``type_``: the DDL of the replica's column.
    """
    default = column.default
    if default is None or default.kind not in _SAME_FOR_ALL_ROWS or column.masking or column.generated:
        return ""
    if column.type.name in _STRICT_TYPES and not replica.is_own_engine(shape.engine):
        return ""
    return default_sql(column, shape.engine, replica.name, type_.lower()) or ""
