"""Find the existing rows that have a unique value of a new row, because an upsert or a REPLACE changes such rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import Insert, Update
from sqlalchemy.sql.elements import BindParameter, ClauseElement

from rowcast.producer.capture.dml.insert_inspection import conflict_assigns, replaces, rows_of
from rowcast.producer.capture.dml.inspection import Parameters
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.dml.statement_tables import table_of
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT
from rowcast.producer.database.row_locks import Key, any_of, lock_any, read_and_lock
from rowcast.producer.tables.captured import CapturedTable

_CONSTANT_ELEMENTS = frozenset(("binary", "unary", "grouping", "null", "true", "false", "cast", "type_coerce"))


class UnknownValueError(Exception):
    """Report that a conflict depends on a value made by the database. ``column``: the column's name."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def lock_conflicting(
    connection: Connection, statement: Insert, pending: PendingStatement, *, exclusive: bool
) -> list[Key]:
    """Lock the existing rows with a unique value of a new row, and return the keys.

    A REPLACE deletes such rows, an upsert updates them. ``exclusive``: see ``read_and_lock``. Raises UnknownValueError
    if a unique value is not known yet.
    """
    table, columns, sets, options = table_of(statement), pending.stored_columns, pending.sets, pending.options
    if statement.select is not None:
        rows = statement.select.subquery()
        given = dict(zip(statement._select_names or (), rows.columns, strict=True))
        conflicts = list(_conflicts(table, {str(getattr(n, "key", n)): c for n, c in given.items()}))
        query = sa.select(*columns).where(sa.exists().select_from(rows).where(sa.or_(*conflicts)))
        if not conflicts:
            return []
        return read_and_lock(connection, query, table, sets[0], options, exclusive=exclusive)
    conditions = [condition for row in rows_of(statement, sets) for condition in _conflicts(table, row)]
    return lock_any(connection, columns, table, conditions, options, exclusive=exclusive)


def keys_where(
    connection: Connection, pending: PendingStatement, conditions: Sequence[ColumnElement[bool]]
) -> list[Key]:
    """Return the keys of the rows that meet any of the conditions. Lock nothing."""
    found: dict[Key, None] = {}
    for condition in any_of(conditions):
        query = sa.select(*pending.stored_columns).where(condition)
        query = capture_dialect(connection.dialect).without_row_limit(query)
        rows = connection.execute(query, execution_options={**pending.options, **INTERNAL_STATEMENT})
        found |= dict.fromkeys(map(tuple, rows))
    return list(found)


def matches(statement: Insert, sets: Parameters) -> Iterator[list[ColumnElement[bool]]]:
    """Yield the conditions on the unique values of each row of the statement.

    Raises UnknownValueError if a unique value is not known.
    """
    table = table_of(statement)
    return (list(_conflicts(table, row)) for row in rows_of(statement, sets))


def keeps_unique_values(statement: Insert, table: CapturedTable) -> bool:
    """Return whether an upsert sets no unique column, and its table object declares every unique column."""
    unique = {str(column.name) for columns in _unique_columns(table.table) for column in columns}
    return declares_unique_values(statement, table) and unique.isdisjoint(conflict_assigns(statement))


def declares_unique_values(statement: Insert, table: CapturedTable) -> bool:
    """Return whether the table object of the statement has the unique constraints of the captured table."""
    own = table_of(statement)
    return own == table.table or (isinstance(own, sa.Table) and _unique_names(own) >= _unique_names(table.table))


def may_replace(statement: Update, table: sa.Table, assigned: Set[str]) -> bool:
    """Return whether an UPDATE of the columns ``assigned`` may delete rows with the same unique values.

    A row with the same primary key does not count, because the capture knows the new keys.
    """
    if not replaces(statement):
        return False
    unique = [c.columns for c in table.constraints if isinstance(c, sa.UniqueConstraint)]
    unique += [i.columns for i in table.indexes if i.unique]
    return any(str(column.name) in assigned for columns in unique for column in columns)


def _conflicts(table: sa.Table, row: Mapping[str, Any]) -> Iterator[ColumnElement[bool]]:
    for columns in _unique_columns(table):
        values = [_value(table, column, row) for column in columns]
        # A NULL never conflicts, and no existing row has a key that is not drawn yet.
        if all(value is not None for value in values):
            yield sa.and_(*(column == value for column, value in zip(columns, values, strict=True)))


def _value(table: sa.Table, column: sa.Column[Any], row: Mapping[str, Any]) -> Any:
    if str(column.key) in row:
        value = row[str(column.key)]
        if isinstance(value, ClauseElement) and not _is_constant(value, row):
            raise UnknownValueError(str(column.name))
        return value
    if isinstance(column.default, sa.ColumnDefault) and column.default.is_scalar:
        return column.default.arg
    if isinstance(column.default, sa.Sequence):
        return None
    if column.default is not None or (column.server_default is not None and column.identity is None):
        raise UnknownValueError(str(column.name))
    return None


def _is_constant(expression: ClauseElement, row: Mapping[str, Any]) -> bool:
    """Return whether the expression has the same value each time, whatever the parameters of the statement are."""
    for element in visitors.iterate(expression):
        if isinstance(element, BindParameter):
            if element.required or element.callable is not None or element.key in row:
                return False
        elif element.__visit_name__ not in _CONSTANT_ELEMENTS and not _is_of_select(element):
            return False
    return True


def _is_of_select(element: Any) -> bool:
    """Return whether the element is a column of the SELECT that gives the rows of the INSERT."""
    return isinstance(element, sa.ColumnClause) and element.table is not None


def _unique_names(table: sa.Table) -> set[frozenset[str]]:
    return {frozenset(str(column.name) for column in columns) for columns in _unique_columns(table)}


def _unique_columns(table: sa.Table) -> list[list[sa.Column[Any]]]:
    """Return the sets of columns that are unique: the primary key, unique constraints and unique indexes."""
    found = [list(table.primary_key.columns)]
    found += [list(u.columns) for u in table.constraints if isinstance(u, sa.UniqueConstraint)]
    found += [list(i.columns) for i in table.indexes if i.unique and len(i.columns) == len(i.expressions)]
    # A table object of a migration or of pandas may declare no primary key.
    return [columns for columns in found if columns]
