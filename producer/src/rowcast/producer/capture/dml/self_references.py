"""Find all rows below given rows through a foreign key that refers to its own table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.row_locks import KEYS_PER_STATEMENT, Key, has_key_in, read_and_lock
from rowcast.producer.tables.stored_keys import stored_key_columns

FindChildren = Callable[[Sequence[Key]], Iterator[Key]]
"""Lock the children of parents, one level below the parents, and yield their keys."""


def refers_to_own_table(constraint: sa.ForeignKeyConstraint) -> bool:
    """Return whether the foreign key refers to its own table."""
    return constraint.referred_table is constraint.table


def find_descendants(
    connection: Connection,
    constraint: sa.ForeignKeyConstraint,
    parents: Sequence[Key],
    find_children: FindChildren,
    options: Mapping[str, Any],
) -> list[Key]:
    """Lock the rows at all levels below ``parents``, and return their keys. ``parents`` are locked already.

    The number of statements depends on the number of rows, and not on the number of levels. ``options``: execution
    options of the queries.
    """
    found: dict[Key, None] = {}

    def add(keys: Iterator[Key]) -> list[Key]:
        new = [key for key in keys if key not in found]
        found.update(dict.fromkeys(new))
        return new

    level = add(find_children(parents))
    while level:
        below = add(_read_all_below(connection, constraint, level, options))
        # The recursive query may have missed rows that another transaction added before their parents were locked.
        # MariaDB also ends the recursion after 1,000 levels.
        level = add(find_children([*level, *below]))
    return list(found)


def _read_all_below(
    connection: Connection, constraint: sa.ForeignKeyConstraint, keys: Sequence[Key], options: Mapping[str, Any]
) -> Iterator[Key]:
    """Lock the rows with ``keys`` and the rows at all levels below, and yield their keys."""
    table = constraint.table
    dialect = capture_dialect(connection.dialect)
    for start in range(0, len(keys), KEYS_PER_STATEMENT):
        part = keys[start : start + KEYS_PER_STATEMENT]
        query = dialect.recurse_deeply(_query_all_below(constraint, part, connection.dialect))
        yield from read_and_lock(connection, query, table, options=options, exclusive=True)


def _query_all_below(constraint: sa.ForeignKeyConstraint, keys: Sequence[Key], dialect: Dialect) -> sa.Select[Any]:
    table = constraint.table
    key_columns = list(table.primary_key.columns)
    top, child = table.alias(), table.alias()
    below = (
        sa.select(*_columns_of(top, constraint))
        .where(has_key_in(stored_key_columns(table, dialect, top), keys))
        .cte("rowcast_below", recursive=True)
    )
    referring = [below.c[f"r{i}"] == child.c[e.parent.key] for i, e in enumerate(constraint.elements)]
    children = sa.select(*_columns_of(child, constraint)).where(*referring)
    if capture_dialect(dialect).has_lateral:
        # Otherwise PostgreSQL may read the whole table for each level.
        rows = children.correlate(below).offset(sa.literal_column("0")).lateral("rowcast_children")
        children = sa.select(*rows.c).select_from(below.join(rows, sa.true()))
    # UNION leaves out rows that are in the result already. Therefore a circle of references ends.
    below = below.union(children)
    same = [column == below.c[f"k{i}"] for i, column in enumerate(key_columns)]
    return sa.select(*stored_key_columns(table, dialect)).join_from(table, below, sa.and_(*same))


def _columns_of(table: sa.FromClause, constraint: sa.ForeignKeyConstraint) -> list[Any]:
    """Return the key columns, and the columns to which the foreign key refers, of an alias of the table."""
    key = [table.c[column.key].label(f"k{i}") for i, column in enumerate(constraint.table.primary_key.columns)]
    return key + [table.c[e.column.key].label(f"r{i}") for i, e in enumerate(constraint.elements)]
