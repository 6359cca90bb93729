"""Check the foreign keys of touched rows, for a transaction without checks by MariaDB or MySQL.

``foreign_key_checks = 0`` accepts every row, and switching the checks on again examines no row. Therefore the worker
looks for rows without a parent before the commit. Two kinds of rows may lack the parent: the written rows, and the rows
with a reference to a row deleted or changed in the transaction. An index finds both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.replica.dialects.base import OrphanError

# Fewer than max_allowed_packet has room for, whatever the keys.
_ROWS_PER_QUERY = 100

_FOREIGN_KEYS = sa.text(
    """
    SELECT constraint_schema, constraint_name, table_schema, table_name,
        referenced_table_schema, referenced_table_name, column_name, referenced_column_name
    FROM information_schema.key_column_usage
    WHERE referenced_table_name IS NOT NULL AND (
        (table_schema = database() AND table_name = :name)
        OR (referenced_table_schema = database() AND referenced_table_name = :name)
    )
    ORDER BY constraint_schema, table_name, constraint_name, ordinal_position
    """
)

Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class TouchedRows:
    """The primary keys of the rows of a table that a transaction writes or deletes, as the driver takes the keys."""

    table: str
    key: tuple[str, ...]
    rows: Sequence[Values]


@dataclass(frozen=True, slots=True)
class MySQLForeignKey:
    """A foreign key as the server has it."""

    name: str
    schema: str
    table: str
    columns: tuple[str, ...]
    referred_schema: str
    referred_table: str
    referred_columns: tuple[str, ...]

    def has_column(self, table: str, column: str) -> bool:
        """Return whether the foreign key has the column of the table, on either side."""
        is_child = table == self.table and column in self.columns
        return is_child or (table == self.referred_table and column in self.referred_columns)


class TouchedForeignKeys:
    """Remember the referable values of touched rows, and look for orphans after the transaction's writes."""

    def __init__(self, connection: Connection, touched: Sequence[TouchedRows]) -> None:
        self._connection = connection
        self._to_check: list[tuple[MySQLForeignKey, tuple[str, ...], Sequence[Values]]] = []
        for rows in touched:
            for key in foreign_keys_of(connection, rows.table):
                if key.table == rows.table:
                    self._to_check.append((key, rows.key, rows.rows))
                if key.referred_table == rows.table:
                    self._to_check.append((key, key.columns, self._referred_values(key, rows)))

    def _referred_values(self, key: MySQLForeignKey, rows: TouchedRows) -> list[Values]:
        parent = _aliased(key.referred_schema, key.referred_table, key.referred_columns, rows.key)
        found: list[Values] = []
        for condition in _conditions(parent, rows.key, rows.rows):
            query = sa.select(*(parent.c[name] for name in key.referred_columns)).where(condition)
            found += map(tuple, self._connection.execute(query))
        return found

    def require_parents(self) -> None:
        """Raise OrphanError if one of the rows has no parent."""
        for key, columns, values in self._to_check:
            child = _aliased(key.schema, key.table, key.columns, columns)
            parent = _aliased(key.referred_schema, key.referred_table, key.referred_columns)
            pairs = [(child.c[c], parent.c[p]) for c, p in zip(key.columns, key.referred_columns, strict=True)]
            joined = child.outerjoin(parent, sa.and_(*(c == p for c, p in pairs)))
            is_orphan = sa.and_(*(c.is_not(None) for c, _ in pairs), pairs[0][1].is_(None))
            for condition in _conditions(child, columns, values):
                orphans = sa.select(sa.literal(1)).select_from(joined).where(condition, is_orphan).limit(1)
                if self._connection.scalar(orphans):
                    raise OrphanError(
                        f"foreign key {key.name}: a row of {key.table} would refer to a row of {key.referred_table} "
                        "that does not exist"
                    )


def foreign_keys_of(connection: Connection, table: str) -> Iterator[MySQLForeignKey]:
    """Return the foreign keys of a table, and the foreign keys that refer to the table."""
    rows = connection.execute(_FOREIGN_KEYS, {"name": table}).all()
    for (_, name, *place), group in groupby(rows, key=lambda row: tuple(row[:6])):
        schema, child, referred_schema, parent = place
        pairs = [(row[6], row[7]) for row in group]
        columns, referred_columns = zip(*pairs, strict=True)
        yield MySQLForeignKey(name, schema, child, columns, referred_schema, parent, referred_columns)


def _aliased(schema: str, table: str, *columns: Sequence[str]) -> sa.FromClause:
    names = dict.fromkeys(name for group in columns for name in group)
    return sa.table(table, *map(sa.column, names), schema=schema).alias()


def _conditions(
    table: sa.FromClause, columns: Sequence[str], rows: Sequence[Values]
) -> Iterator[sa.ColumnElement[bool]]:
    """Return conditions that together choose the rows with the values. The server uses no index for tuples in IN."""
    for start in range(0, len(rows), _ROWS_PER_QUERY):
        chunk = rows[start : start + _ROWS_PER_QUERY]
        if len(columns) == 1:
            yield table.c[columns[0]].in_([value for (value,) in chunk])
        else:
            yield sa.or_(*(sa.and_(*(table.c[n] == v for n, v in zip(columns, row, strict=True))) for row in chunk))
