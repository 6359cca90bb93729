"""Read the features of an application's table that only a primary needs: counters, defaults, indexes.

The shape carries the features, so that ``rowcast promote`` can give them to a replica.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Dialect

from rowcast.shared.tables.server_defaults import ServerDefault, parse_default, sequence_of
from rowcast.shared.tables.shape import IdentityShape, IndexShape

_CARRIED_ACTIONS = frozenset(("CASCADE", "SET NULL", "SET DEFAULT"))


def identity_of(column: sa.Column[Any], dialect: Dialect) -> IdentityShape | None:
    """Return how the database numbers the column, or None if the application gives each value."""
    sequence = column.default if isinstance(column.default, sa.Sequence) and dialect.supports_sequences else None
    sql = _default_sql(column, dialect)
    default_sequence = None if sql is None else sequence_of(sql)
    # Engines without identity columns number the column in their own way, from 1 on.
    options = column.identity if dialect.supports_identity_columns else None
    name = str(sequence.name) if sequence is not None else default_sequence
    if name == f"{column.table.name}_{column.name}_seq" and sequence is None:
        # PostgreSQL gives the sequence of SERIAL this name, and the application does not know the name.
        name = None
    if options is not None:
        return IdentityShape(bool(options.always), options.start, options.increment, name)
    if sequence is not None:
        return IdentityShape(False, sequence.start, sequence.increment, name)
    if default_sequence is not None or column.identity is not None or column is column.table.autoincrement_column:
        return IdentityShape(sequence=name)
    return None


def default_of(column: sa.Column[Any], dialect: Dialect) -> ServerDefault | None:
    """Return the server default, or None without a default, and for a column with a sequence."""
    default = column.server_default
    if isinstance(default, sa.DefaultClause) and isinstance(default.arg, str):
        return ServerDefault("string", default.arg)
    sql = _default_sql(column, dialect)
    if sql is None or sequence_of(sql) is not None:
        return None
    return parse_default(sql)


def _default_sql(column: sa.Column[Any], dialect: Dialect) -> str | None:
    """Return the SQL of the server default, as in DDL. None: the column has no default, or a plain text."""
    default = column.server_default
    if not isinstance(default, sa.DefaultClause) or isinstance(default.arg, str):
        return None
    if isinstance(default.arg, sa.TextClause):
        return default.arg.text
    try:
        return str(default.arg.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    except exc.CompileError:
        return f"{default.arg!r}"


def indexes_of(table: sa.Table, dialect: Dialect) -> tuple[IndexShape, ...]:
    """Return the table's indexes in the order of names. An index without a portable form has a reason."""
    named = (index for index in table.indexes if isinstance(index.name, str))
    return tuple(sorted((_index(index, dialect) for index in named), key=lambda index: index.name))


def _index(index: sa.Index, dialect: Dialect) -> IndexShape:
    reason = next(_special_parts(index, dialect), None)
    columns = () if reason else tuple(str(column.name) for column in index.columns)
    return IndexShape(str(index.name), columns, bool(index.unique), reason)


def _special_parts(index: sa.Index, dialect: Dialect) -> Iterator[str]:
    """Yield the parts of the index on this engine beyond the columns."""
    if not index.columns or not all(isinstance(expression, sa.Column) for expression in index.expressions):
        yield "expression"
    engines = {dialect.name, "mysql" if dialect.name == "mariadb" else dialect.name}
    for key, value in index.dialect_kwargs.items():
        engine, _, option = key.partition("_")
        if value is None or value is False or (isinstance(value, Sized) and len(value) == 0) or engine not in engines:
            continue
        if option in ("using", "prefix") and str(value).lower() != "btree":
            yield str(value).lower()
        elif option in _OPTIONS:
            yield _OPTIONS[option]


_OPTIONS = {
    "where": "partial",
    "length": "prefix of a text",
    "include": "included columns",
    "ops": "operator classes",
    "nulls_not_distinct": "NULLS NOT DISTINCT",
}


def carried_action(text: str | None) -> str | None:
    """Return the action of a foreign key, or None for an action that only refuses."""
    upper = (text or "").upper()
    return upper if upper in _CARRIED_ACTIONS else None
