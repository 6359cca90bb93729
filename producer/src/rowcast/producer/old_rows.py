"""Rows as they are before a statement changes them, for the tables whose events carry them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.elements import BindParameter, ClauseElement

from rowcast.producer.locked_reads import CHUNK, is_one_of, read_locked
from rowcast.producer.outbox_lines import old_member
from rowcast.producer.sqlite_functions import ensure_functions
from rowcast.producer.tables import CapturedTable
from rowcast.producer.touched import Key, OldRows


def old_rows(connection: Connection, table: CapturedTable, keys: Sequence[Key]) -> OldRows:
    """Those of the rows that are there, locked from now on."""
    found: dict[Key, str] = {}
    for start in range(0, len(keys), CHUNK):
        found |= _matching(connection, table, is_one_of(table.key_columns, keys[start : start + CHUNK]))
    for key in keys:
        # A key that is stored in another form than the application gives it: another case, or another type.
        if key not in found:
            for member in _matching(connection, table, is_one_of(table.key_columns, [key])).values():
                found[key] = member
    return found


def rows_in_the_way(
    connection: Connection, table: CapturedTable, statement: Insert, sets: Sequence[Mapping[str, Any]]
) -> OldRows:
    """Those that share a unique key with the rows that an upsert brings, locked from now on.

    Values that the database computes are not known here: rows that conflict by them are not found.
    """
    found: dict[Key, str] = {}
    brought = list(_brought(statement, sets))
    for unique in _unique_keys(table.table):
        keys = [tuple(row[c.key] for c in unique) for row in brought if all(c.key in row for c in unique)]
        for start in range(0, len(keys), CHUNK):
            found |= _matching(connection, table, is_one_of(unique, keys[start : start + CHUNK]))
    return found


def _matching(connection: Connection, table: CapturedTable, condition: ColumnElement[bool]) -> dict[Key, str]:
    ensure_functions(connection)
    query = sa.select(*table.key_columns, old_member(table)).where(condition)
    rows = read_locked(connection, query, table.table)
    return {row[:-1]: row[-1] for row in rows}


def _unique_keys(table: sa.Table) -> Iterator[Sequence[sa.Column[Any]]]:
    yield tuple(table.primary_key.columns)
    for constraint in table.constraints:
        if isinstance(constraint, sa.UniqueConstraint):
            yield tuple(constraint.columns)
    for index in table.indexes:
        if index.unique and len(index.columns) == len(index.expressions):
            yield tuple(index.columns)


def _brought(statement: Insert, sets: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows' values that are known, by the columns' keys."""
    if statement.select is not None:
        return
    several: list[Any] = [row for rows in statement._multi_values for row in rows] or [statement._values or {}]
    for values in several:
        named = values if isinstance(values, Mapping) else dict(zip(statement.table.c, values, strict=False))
        for parameters in sets:
            row = {str(getattr(column, "key", column)): value for column, value in named.items()} | dict(parameters)
            known = {key: v.effective_value if isinstance(v, BindParameter) else v for key, v in row.items()}
            yield {key: v for key, v in known.items() if v is not None and not isinstance(v, ClauseElement)}
