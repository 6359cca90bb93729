"""Inspect an INSERT: the kind of statement, the new rows and their keys."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import chain
from types import NoneType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import CursorResult, Dialect
from sqlalchemy.sql.dml import Insert, Update, UpdateBase
from sqlalchemy.sql.elements import BindParameter, ClauseElement
from sqlalchemy.sql.functions import FunctionElement

from rowcast.producer.capture.dml.inspection import Parameters, assigned_name, has_return_defaults
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.dml.statement_tables import is_same_table, table_of
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.row_locks import Key
from rowcast.producer.tables.stored_keys import StoredKeys


def given_keys(statement: Insert, key_columns: Sequence[sa.Column[Any]], sets: Parameters) -> tuple[Key, ...] | None:
    """Return the keys in the parameters of an INSERT, or None if the parameters hold no rows or no keys."""
    if statement._multi_values or statement.select is not None:
        return None
    names = [str(column.key) for column in key_columns]
    values = _values_in(statement, names) if statement._values else None
    rows = [{**_sent(values, parameters), **parameters} for parameters in sets] if values else sets
    return named_keys(names, rows)


def known_keys(statement: Insert, key_columns: Sequence[sa.Column[Any]], sets: Parameters) -> tuple[Key, ...] | None:
    """Return the keys of all rows in the statement and its parameters, or None if a key or the rows are not known."""
    if statement.select is not None:
        return None
    return named_keys([str(column.key) for column in key_columns], list(rows_of(statement, sets)))


def has_single_row(statement: Insert, sets: Parameters) -> bool:
    """Return whether the INSERT has one row, whose drawn key SQLAlchemy reports or sends."""
    return len(sets) == 1 and not (statement._multi_values or statement._inline) and statement.select is None


def named_keys(names: Sequence[str], sets: Parameters) -> tuple[Key, ...] | None:
    """Return the keys in the parameter sets, or None if a set has no value or an expression in a key column.

    ``names``: the parameters of the key.
    """
    columns = [[parameters.get(name) for parameters in sets] for name in names]
    for values in columns:
        for kind in set(map(type, values)):
            if kind is NoneType or issubclass(kind, ClauseElement):
                return None
    return tuple(zip(*columns, strict=True))


def sent_keys(names: Sequence[str], sets: Parameters, stored: StoredKeys) -> tuple[Key, ...] | None:
    """Return the keys in several parameter sets, or None if the table draws its keys or may change the given keys.

    ``names``: the parameters of the key.
    """
    columns = [[parameters.get(name) for parameters in sets] for name in names]
    return tuple(zip(*columns, strict=True)) if stored.holds_all(columns) else None


def reports_stored_keys(statement: Insert, pending: PendingStatement, dialect: Dialect) -> bool:
    """Return whether SQLAlchemy reports the keys of an INSERT as they are stored. The parameters lack some keys."""
    reports = reports_keys(statement, pending.key_columns, pending.sets, dialect)
    return reports and sends_stored_values(statement, pending)


def sends_stored_values(statement: Insert, pending: PendingStatement) -> bool:
    """Return whether the table stores the sent values of key columns as they are.

    The database or SQLAlchemy reports the values of columns and rows without a value, and of expressions.
    """
    stored = pending.stored.stored_keys
    if not stored.may_be_sent:
        return False
    has_values = statement._multi_values or statement._values
    rows: Parameters = list(rows_of(statement, pending.sets)) if has_values else pending.sets
    for column, own in zip(stored.key_columns, pending.key_columns, strict=True):
        name = str(own.key)
        if not column.holds_all([row.get(name) for row in rows]):
            return False
    return True


def has_known_keys(
    statement: Insert, key_columns: Sequence[sa.Column[Any]], sets: Parameters, dialect: Dialect
) -> bool:
    """Return whether the keys are given by the application, or SQLAlchemy will report them without help."""
    if statement._multi_values or statement.select is not None or is_upsert(statement):
        return False
    if reports_keys(statement, key_columns, sets, dialect) or given_keys(statement, key_columns, sets) is not None:
        return True
    return _declares_key(statement, key_columns) and all(_given(statement, column, sets) for column in key_columns)


def reports_keys(statement: Insert, key_columns: Sequence[sa.Column[Any]], sets: Parameters, dialect: Dialect) -> bool:
    """Return whether SQLAlchemy asks the database for the keys, by itself or because of the ORM.

    The rows of the INSERT must be its parameter sets.
    """
    if statement._values and any(map(_is_computed, statement._values.values())):
        # SQLAlchemy takes the value for given, and does not ask for the key.
        return False
    if has_return_defaults(statement) and (len(sets) == 1 or dialect.insert_executemany_returning):
        return True
    table = table_of(statement)
    if len(sets) != 1 or statement._inline or not table.implicit_returning:
        return False
    return _declares_key(statement, key_columns)


def _declares_key(statement: Insert, key_columns: Sequence[sa.Column[Any]]) -> bool:
    """Return whether the table object of the statement has the primary key. Only then SQLAlchemy reports new keys.

    A table object of a migration may declare a different primary key or no primary key.
    """
    return [column.name for column in table_of(statement).primary_key] == [column.name for column in key_columns]


def drawn_column(pending: PendingStatement) -> sa.Column[Any] | None:
    """Return the key column for which the database draws numbers, or None."""
    drawn = pending.table.table._autoincrement_column
    pairs = zip(pending.table.key_columns, pending.key_columns, strict=True)
    return None if drawn is None else next(column for key, column in pairs if key is drawn)


def draws_a_key_for_zero(statement: Insert, pending: PendingStatement, dialect: Dialect) -> bool:
    """Return whether the database may replace a 0 in a key column by a drawn number."""
    drawn = drawn_column(pending)
    if drawn is None or not capture_dialect(dialect).draws_key_for_zero:
        return False
    return any(row.get(str(drawn.key)) == 0 for row in rows_of(statement, pending.sets))


def last_inserted_key(
    statement: Insert, pending: PendingStatement, result: CursorResult[Any]
) -> tuple[Key, ...] | None:
    """Return the key of the only row of an INSERT without RETURNING, or None if it is not known.

    The driver reports the number that the database drew for a missing AUTO_INCREMENT value, or in the place of a 0. It
    reports 0 if the SQL mode NO_AUTO_VALUE_ON_ZERO kept the 0.
    """
    drawn, key_columns = drawn_column(pending), pending.key_columns
    if _declares_key(statement, key_columns):
        reported = result.inserted_primary_key_rows[0] or (None,) * len(key_columns)
    else:
        row = next(rows_of(statement, pending.sets))
        reported = tuple(row.get(str(column.key)) for column in key_columns)
        if any(isinstance(value, ClauseElement) for value in reported):
            return None
    known = zip(key_columns, reported, strict=True)
    key = tuple(result.lastrowid if column is drawn and not value else value for column, value in known)
    return None if None in key else (key,)


def insert_id(statement: Insert, pending: PendingStatement, keys: Sequence[Key]) -> int | None:
    """Return the number that MariaDB reports for an INSERT.

    It is the first drawn number, else the number of the last row. A number that an expression computes is not drawn.
    ``keys``: the keys of the inserted rows.
    """
    drawn = drawn_column(pending)
    if drawn is None or not keys:
        return 0
    numbers: list[int] = [key[pending.key_columns.index(drawn)] for key in keys]
    given = [row.get(str(drawn.key)) for row in rows_of(statement, pending.sets)]
    if any(isinstance(value, ClauseElement) for value in given):
        return numbers[-1]
    return next((number for number in numbers if number not in given), given[-1] if given else numbers[-1])


def _given(statement: Insert, column: sa.Column[Any], sets: Parameters) -> bool:
    """Return whether the application or a Python-side default gives the column's value in every row."""
    if column.key in sets[0]:
        return all(p[column.key] is not None and not isinstance(p[column.key], ClauseElement) for p in sets)
    if statement._values and column in statement._values:
        value = statement._values[column]
        return isinstance(value, BindParameter) and not _is_computed(value)
    default = column.default
    return default is not None and (default.is_scalar or default.is_callable)


def is_upsert(statement: Insert) -> bool:
    """Return whether the INSERT has ON CONFLICT, ON DUPLICATE KEY or a prefix such as OR REPLACE.

    Then the key of the changed row may differ from the given key.
    """
    return statement._post_values_clause is not None or bool(statement._prefixes)


def replaces(statement: Insert | Update) -> bool:
    """Return whether the statement deletes conflicting rows, as REPLACE and OR REPLACE do, without their keys."""
    return any("REPLACE" in str(prefix[0]).upper() for prefix in statement._prefixes)


def conflict_assigns(statement: Insert) -> set[str]:
    """Return the names of the columns that an upsert sets in an existing row, or that change by themselves with it."""
    clause = statement._post_values_clause
    # The clauses of PostgreSQL and SQLite have a list of pairs, the clause of MySQL has a dict.
    pairs = getattr(clause, "update_values_to_set", None) or getattr(clause, "update", None) or ()
    assigned = pairs.items() if isinstance(pairs, dict) else pairs
    named = [(assigned_name(statement, column), value) for column, value in assigned]
    names = {name for name, value in named if not _keeps(name, value)}
    # SQLAlchemy does not apply ``onupdate`` to an upsert.
    return names and names | {str(c.name) for c in table_of(statement).columns if c.server_onupdate is not None}


def _keeps(name: str, value: Any) -> bool:
    """Return whether the value is ``LAST_INSERT_ID(column)``, which is the column's own value."""
    if not isinstance(value, FunctionElement) or getattr(value, "name", "").lower() != "last_insert_id":
        return False
    return [getattr(c, "name", None) for c in value.clauses] == [name]


def returns_keys(statement: UpdateBase, key_columns: Sequence[sa.Column[Any]]) -> bool:
    """Return whether the application's own RETURNING has the key. The ORM's bulk INSERT adds the key by itself."""
    if statement._annotations.get("dml_strategy") == "bulk":
        return True
    returned = list(statement._all_selected_columns)
    return all(
        any(getattr(c, "name", None) == k.name and is_same_table(getattr(c, "table", None), k.table) for c in returned)
        for k in key_columns
    )


def inserted_keys(
    statement: Insert, result: CursorResult[Any], key_columns: Sequence[sa.Column[Any]], sets: Parameters
) -> tuple[Key, ...] | None:
    """Return the keys of inserted rows known to SQLAlchemy, or None if a key is not known."""
    # Given keys come first, because SQLAlchemy would make a row object of each.
    if (given := given_keys(statement, key_columns, sets)) is not None:
        return given
    if not _declares_key(statement, key_columns):
        return None
    width = len(key_columns)
    keys = tuple(tuple(row) if row is not None else (None,) * width for row in result.inserted_primary_key_rows)
    return None if NoneType in set(map(type, chain.from_iterable(keys))) else keys


def single_rows(statement: Insert, sets: Parameters) -> list[tuple[Insert, Mapping[str, Any]]] | None:
    """Split the statement into statements of a single row, in order. Return None if the rows come from a SELECT."""
    if statement.select is not None:
        return None
    if not statement._multi_values:
        return [(statement, parameters) for parameters in sets]
    empty = statement._clone()
    empty._multi_values = ()
    return [(empty.values(row), parameters) for rows in statement._multi_values for row in rows for parameters in sets]


def rows_of(statement: Insert, sets: Parameters) -> Iterator[Mapping[str, Any]]:
    """Yield the values of each row in the statement, by column key."""
    for single, parameters in single_rows(statement, sets) or ():
        values = _values_in(single)
        yield {**_sent(values, parameters), **parameters} if values else parameters


def _values_in(statement: Insert, names: Container[str] | None = None) -> dict[str, Any]:
    """Return the values in the statement by column key. ``names``: the keys of the wanted columns, by default all."""
    found = {}
    for column, value in (statement._values or {}).items():
        name = str(getattr(column, "key", column))
        if names is None or name in names:
            found[name] = value
    return found


def _sent(values: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value_of(value, parameters) for name, value in values.items()}


def _value_of(value: Any, parameters: Mapping[str, Any]) -> Any:
    """Return the value of a parameter that ``values()`` names, or the value itself."""
    if not isinstance(value, BindParameter) or _is_computed(value):
        return value
    return parameters.get(value.key, value.effective_value)


def _is_computed(value: Any) -> bool:
    """Return whether a function gives the value when the statement is executed, and another value each time."""
    return isinstance(value, BindParameter) and value.callable is not None
