"""Read the keys of rows, and lock the rows, in the application's transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT, UNTRANSLATED

Key = tuple[Any, ...]

BeforeImages = Mapping[Key, str]
"""Before images by key, each as a member of an outbox line."""

KEYS_PER_STATEMENT = 500
"""The greatest number of keys in one statement."""

_COMPARED_ONE_BY_ONE = (sa.Time, mysql.YEAR)

_CONDITIONS_PER_STATEMENT = 200
"""The greatest number of conditions that are joined by OR."""


def read_and_lock(
    connection: Connection,
    query: sa.Select[Any],
    table: Any,
    parameters: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] = UNTRANSLATED,
    *,
    locked: sa.FromClause | None = None,
    exclusive: bool = False,
) -> list[Key]:
    """Return the rows of a query, and lock the found rows of ``table``. ``options``: execution options.

    ``locked``: a further table of the query, with rows that the transaction has locked before. MySQL would otherwise
    read the table's state at the beginning of the transaction. ``exclusive``: the keys may go away, so other
    transactions must not refer to the rows by foreign keys either. PostgreSQL takes this stronger lock for an UPDATE of
    a key and for every DELETE.
    """
    options = {**options, **INTERNAL_STATEMENT}
    dialect = capture_dialect(connection.dialect)
    dialect.lock_for_reading(connection, table, options)
    query = dialect.without_row_limit(query)
    if query._for_update_arg is None:
        query = query.with_for_update(of=table if locked is None else (table, locked), key_share=not exclusive)
    return [tuple(row) for row in connection.execute(query, dict(parameters or {}), execution_options=options)]


def lock_rows(
    connection: Connection,
    given: Sequence[sa.Column[Any]],
    stored: Sequence[Any],
    keys: Sequence[Key],
    *,
    exclusive: bool = False,
) -> Iterator[Key]:
    """Lock the rows with the given primary keys. Yield the stored keys of the rows found.

    ``given``: the key columns as ``keys`` are bound. ``stored``: the key columns as the stored keys are read.
    ``exclusive``: see ``read_and_lock``.
    """
    for start in range(0, len(keys), KEYS_PER_STATEMENT):
        query = sa.select(*stored).where(has_key_in(given, keys[start : start + KEYS_PER_STATEMENT]))
        yield from read_and_lock(connection, query, given[0].table, exclusive=exclusive)


def lock_any(
    connection: Connection,
    columns: Sequence[Any],
    table: Any,
    conditions: Sequence[ColumnElement[bool]],
    options: Mapping[str, Any] = UNTRANSLATED,
    *,
    exclusive: bool = False,
) -> list[Key]:
    """Lock the rows of ``table`` that meet any of the conditions. Return the values of ``columns`` in these rows.

    ``options`` and ``exclusive``: see ``read_and_lock``.
    """
    found: list[Key] = []
    for condition in any_of(conditions):
        query = sa.select(*columns).where(condition)
        found += read_and_lock(connection, query, table, None, options, exclusive=exclusive)
    return found


def any_of(conditions: Sequence[ColumnElement[bool]]) -> Iterator[ColumnElement[bool]]:
    """Join the conditions by OR, a limited number in each yielded condition."""
    for start in range(0, len(conditions), _CONDITIONS_PER_STATEMENT):
        yield sa.or_(*conditions[start : start + _CONDITIONS_PER_STATEMENT])


def has_key_in(columns: Sequence[ColumnElement[Any]], keys: Sequence[Key]) -> ColumnElement[bool]:
    """Return the SQL condition for the columns to hold any of the keys."""
    # SQLAlchemy binds the values of a tuple without the expressions of their types. MySQL rounds a TIME, and completes
    # a YEAR of two digits, in a comparison, but not in a list.
    if any(column.type._has_bind_expression or isinstance(column.type, _COMPARED_ONE_BY_ONE) for column in columns):
        return sa.or_(
            sa.false(), *(sa.and_(*(_is_equal(c, v) for c, v in zip(columns, key, strict=True))) for key in keys)
        )
    if len(columns) == 1:
        # Without the column's type SQLAlchemy would take the type of the first value.
        values = sa.bindparam(None, [k[0] for k in keys], type_=columns[0].type, expanding=True)
        return columns[0].in_(values)
    return sa.tuple_(*columns).in_(keys)


def _is_equal(column: ColumnElement[Any], value: Any) -> ColumnElement[bool]:
    return column == sa.bindparam(None, value, type_=column.type)
