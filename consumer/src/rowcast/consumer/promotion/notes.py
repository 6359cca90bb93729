"""The work that a promotion leaves to a person: parts missing from the shapes, or impossible on the engine."""

from __future__ import annotations

from collections.abc import Iterator

from rowcast.consumer.promotion.existing_table import ExistingTable
from rowcast.consumer.replica.dialects.default_sql import default_sql


def notes_of(table: ExistingTable, engine: str) -> Iterator[str]:
    """Yield the tasks of a person for a table. ``engine``: the family of the replica's engine."""
    where = table.shape.full_name
    for column, existing in table.pairs():
        name = f"{where}.{column.name}"
        if column.generated:
            yield f"{name} is computed by the source, from an expression that the shapes do not carry"
        if column.name in table.has_rows_without:
            yield f"{name} is NULL in some rows, and cannot be NULL at the source"
        default = column.default
        if default is None or existing.default or column.identity is not None or column.generated:
            continue
        if default_sql(column, table.shape.engine, engine, existing.type) is None:
            yield f"{name} has the default {default.value or default.kind} at the source"
    for index in table.shape.indexes:
        if index.left_out is not None and not any(existing.name == index.name for existing in table.indexes):
            yield f"{where}: the index {index.name} is not carried ({index.left_out})"
    for key in table.shape.foreign_keys:
        if key not in table.possible_keys or not (table.created or table.foreign_key(key.columns)):
            yield (
                f"{where}: the foreign key ({', '.join(key.columns)}) to {key.referred_schema}.{key.referred_table} "
                "is not here"
            )
