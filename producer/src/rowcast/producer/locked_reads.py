"""Reading the keys of rows, and locking the rows, in the application's transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection

Key = tuple[Any, ...]

OWN_OPTION = "rowcast_own"
OWN = {OWN_OPTION: True}
"""Execution options that mark rowcast's own statements for its listeners."""

AS_STORED: Mapping[str, Any] = {"schema_translate_map": None}
"""Execution options for statements whose tables have the schemas that they have in the database."""

CHUNK = 500
"""How many keys a statement names at most."""


def read_locked(
    connection: Connection,
    query: sa.Select[Any],
    table: Any,
    parameters: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] = AS_STORED,
) -> list[Key]:
    """The rows of a query on ``table``, of which those found are locked. ``options``: execution options."""
    options = {**options, **OWN}
    if connection.dialect.name == "sqlite":
        # It has no row locks, and the driver begins the transaction with the first change: this one changes nothing,
        # and takes the database's only write lock.
        connection.execute(sa.delete(table).where(sa.false()), execution_options=options)
    query = query.with_for_update(of=table)
    return [tuple(row) for row in connection.execute(query, dict(parameters or {}), execution_options=options)]


def lock_named(connection: Connection, columns: Sequence[sa.Column[Any]], keys: Sequence[Key]) -> Iterator[Key]:
    """Locks the rows of these primary keys that are there; gives their keys, as they are stored."""
    for start in range(0, len(keys), CHUNK):
        query = sa.select(*columns).where(is_one_of(columns, keys[start : start + CHUNK]))
        yield from read_locked(connection, query, columns[0].table)


def is_one_of(columns: Sequence[ColumnElement[Any]], keys: Sequence[Key]) -> ColumnElement[bool]:
    """Whether the columns hold one of the keys."""
    return columns[0].in_([k[0] for k in keys]) if len(columns) == 1 else sa.tuple_(*columns).in_(keys)
