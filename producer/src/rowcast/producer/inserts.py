"""What an INSERT says of the keys of its rows, and of the rows that it conflicts with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import NoneType
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection, CursorResult, Dialect
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.elements import BindParameter, ClauseElement

from rowcast.producer.locked_reads import read_locked
from rowcast.producer.statements import Key, Parameters, has_return_defaults, is_same_table, table_of
from rowcast.shared.types import MYSQL_FAMILY

_CHUNK = 200


def given_keys(statement: Insert, key_columns: Sequence[sa.Column[Any]], sets: Parameters) -> tuple[Key, ...] | None:
    """The keys that an INSERT's parameters name; None if they do not."""
    if statement._multi_values or statement.select is not None:
        return None
    return named_keys([str(column.key) for column in key_columns], sets)


def named_keys(names: Sequence[str], sets: Parameters) -> tuple[Key, ...] | None:
    """The same, of an INSERT whose rows are its parameters; ``names``: those that are the key."""
    columns = [[parameters.get(name) for parameters in sets] for name in names]
    for values in columns:
        for kind in set(map(type, values)):
            if kind is NoneType or issubclass(kind, ClauseElement):
                return None
    return tuple(zip(*columns, strict=True))


def names_rows_by_itself(statement: Insert, key_columns: Sequence[sa.Column[Any]], sets: Parameters) -> bool:
    """Whether SQLAlchemy will report the inserted keys without help."""
    if statement._multi_values or statement.select is not None or is_upsert(statement):
        return False
    return reports_keys(statement, sets) or all(_given(statement, column, sets) for column in key_columns)


def reports_keys(statement: Insert, sets: Parameters) -> bool:
    """Whether SQLAlchemy asks the database for the keys of such an INSERT: the ORM told it to, or it does so itself."""
    if has_return_defaults(statement):
        return True
    return len(sets) == 1 and not statement._inline and bool(table_of(statement).implicit_returning)


def draws_a_key_for_zero(
    statement: Insert, key_columns: Sequence[sa.Column[Any]], sets: Parameters, dialect: Dialect
) -> bool:
    """Whether MySQL may put a number of its own in the place of a 0."""
    if dialect.name not in MYSQL_FAMILY:
        return False
    column = key_columns[0].table._autoincrement_column
    return column is not None and any(row.get(str(column.key)) == 0 for row in _rows(statement, sets))


def _given(statement: Insert, column: sa.Column[Any], sets: Parameters) -> bool:
    """Whether the application or a Python-side default gives the column's value in every row."""
    if column.key in sets[0]:
        return all(p[column.key] is not None and not isinstance(p[column.key], ClauseElement) for p in sets)
    if statement._values and column in statement._values:
        return isinstance(statement._values[column], BindParameter)
    default = column.default
    return default is not None and (default.is_scalar or default.is_callable)


def is_upsert(statement: Insert) -> bool:
    """ON CONFLICT, ON DUPLICATE KEY, or a prefix (OR REPLACE): the key given may not be the changed row's."""
    return statement._post_values_clause is not None or bool(statement._prefixes)


def replaces(statement: Insert) -> bool:
    """REPLACE: rows that conflict are deleted, and nothing says which they were."""
    return any("REPLACE" in str(prefix[0]).upper() for prefix in statement._prefixes)


def conflict_assigns(statement: Insert) -> set[str]:
    """The names of the columns that an upsert sets in a row that is there."""
    clause = statement._post_values_clause
    # PostgreSQL's and SQLite's have a list of pairs, MySQL's a dict.
    pairs = getattr(clause, "update_values_to_set", None) or getattr(clause, "update", None) or ()
    columns = [pair[0] for pair in (pairs.items() if isinstance(pairs, Mapping) else pairs)]
    return {str(getattr(column, "name", column)) for column in columns}


def returns_keys(statement: Insert, key_columns: Sequence[sa.Column[Any]]) -> bool:
    """Whether the application's own RETURNING has the keys. The ORM's bulk INSERT adds them by itself."""
    if statement._annotations.get("dml_strategy") == "bulk":
        return True
    returned = list(statement._all_selected_columns)
    return all(
        any(getattr(c, "name", None) == k.name and is_same_table(getattr(c, "table", None), k.table) for c in returned)
        for k in key_columns
    )


def is_read_by_the_orm(statement: Insert) -> bool:
    """Whether the ORM makes its own result of what the statement returns."""
    return "dml_strategy" in statement._annotations


def inserted_keys(
    statement: Insert, result: CursorResult[Any], key_columns: Sequence[sa.Column[Any]], sets: Parameters
) -> tuple[Key, ...] | None:
    """The keys of inserted rows as SQLAlchemy knows them; None if one of them is not known."""
    # Where the application gave them, SQLAlchemy would still make a row object of each.
    if (given := given_keys(statement, key_columns, sets)) is not None:
        return given
    width = len(key_columns)
    keys = tuple(tuple(row) if row is not None else (None,) * width for row in result.inserted_primary_key_rows)
    return None if NoneType in set(map(type, chain.from_iterable(keys))) else keys


def single_rows(statement: Insert, sets: Parameters) -> list[tuple[Insert, Mapping[str, Any]]] | None:
    """The statement as one for each row, in order; None if its rows come from a SELECT."""
    if statement.select is not None:
        return None
    if not statement._multi_values:
        return [(statement, parameters) for parameters in sets]
    plain = statement._clone()
    plain._multi_values = ()
    return [(plain.values(row), parameters) for rows in statement._multi_values for row in rows for parameters in sets]


class UnknownValueError(Exception):
    """A value that decides about a conflict, and that only the database will make. ``column``: its name."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def conflicting_keys(
    connection: Connection,
    statement: Insert,
    key_columns: Sequence[sa.Column[Any]],
    sets: Parameters,
    options: Mapping[str, Any],
) -> list[Key]:
    """Reads, and locks, the rows that have a unique value of one that is to be inserted: those that a REPLACE deletes.

    Raises UnknownValueError.
    """
    table = table_of(statement)
    if statement.select is not None:
        rows = statement.select.subquery()
        given = dict(zip(statement._select_names or (), rows.columns, strict=True))
        conflicts = list(_conflicts(table, {str(getattr(n, "key", n)): c for n, c in given.items()}))
        query = sa.select(*key_columns).where(sa.exists().select_from(rows).where(sa.or_(*conflicts)))
        return read_locked(connection, query, table, sets[0], options) if conflicts else []
    conditions = [condition for row in _rows(statement, sets) for condition in _conflicts(table, row)]
    found: list[Key] = []
    for start in range(0, len(conditions), _CHUNK):
        query = sa.select(*key_columns).where(sa.or_(*conditions[start : start + _CHUNK]))
        found += read_locked(connection, query, table, None, options)
    return found


def _rows(statement: Insert, sets: Parameters) -> Iterator[Mapping[str, Any]]:
    """What the statement gives for each row, by column key."""
    for single, parameters in single_rows(statement, sets) or ():
        values = {str(getattr(c, "key", c)): _value_of(v) for c, v in (single._values or {}).items()}
        yield {**values, **parameters} if values else parameters


def _value_of(value: Any) -> Any:
    return value.effective_value if isinstance(value, BindParameter) else value


def _conflicts(table: sa.Table, row: Mapping[str, Any]) -> Iterator[ColumnElement[bool]]:
    for columns in unique_columns(table):
        values = [_value(table, column, row) for column in columns]
        # NULL is equal to nothing; a key that is drawn anew is nobody's.
        if all(value is not None for value in values):
            yield sa.and_(*(column == value for column, value in zip(columns, values, strict=True)))


def _value(table: sa.Table, column: sa.Column[Any], row: Mapping[str, Any]) -> Any:
    if str(column.key) in row:
        return row[str(column.key)]
    if isinstance(column.default, sa.ColumnDefault) and column.default.is_scalar:
        return column.default.arg
    if isinstance(column.default, sa.Sequence):
        return None
    if column.default is not None or (column.server_default is not None and column.identity is None):
        raise UnknownValueError(str(column.name))
    return None


def unique_columns(table: sa.Table) -> list[list[sa.Column[Any]]]:
    """The sets of columns whose values no two rows share."""
    found = [list(table.primary_key.columns)]
    found += [list(u.columns) for u in table.constraints if isinstance(u, sa.UniqueConstraint)]
    found += [list(i.columns) for i in table.indexes if i.unique and len(i.columns) == len(i.expressions)]
    return found
