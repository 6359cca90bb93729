"""Find out on PostgreSQL whether row-level security hides rows, and which row of a drain is missing.

The outbox row may go to the server together with COMMIT. Therefore the statement itself must fail if a row is missing,
and the error must name the row, because nothing can be asked after the failure.
"""

from __future__ import annotations

import re

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.engine import Connection, Dialect

from rowcast.producer.database.dialects.base import MissingRow
from rowcast.producer.database.dialects.percent_signs import for_database
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT
from rowcast.shared.images import Concatenation

_SECURED_TABLES = sa.text(
    "SELECT nspname || '.' || relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace "
    "WHERE relrowsecurity"
)
_HIDDEN, _MISSING = "rowcast hidden row ", "rowcast missing row "
_NAMED = re.compile(f"({_HIDDEN}|{_MISSING})(?P<line>{{.*}}}})\\n")


def missing_line(
    line: ColumnElement[str] | None, table: sa.Table, gone: ColumnElement[str], dialect: Dialect
) -> ColumnElement[str]:
    """Return ``line``, or an error that contains ``gone`` if there is no ``line`` or a policy may hide the row.

    The error is that of a text which is no number. The planner must not evaluate the error beforehand, and does not,
    because the text depends on a function that is not immutable.
    """
    active = sa.literal_column(f"row_security_active({_regclass(table, dialect)})", sa.Boolean)
    text = Concatenation(sa.case((active, _literal(_HIDDEN)), else_=_literal(_MISSING)), gone)
    error: ColumnElement[str] = sa.cast(sa.cast(text, sa.Integer), sa.Text)
    return error if line is None else sa.case((active, error), else_=line)


def missing_row(error: exc.DBAPIError) -> MissingRow | None:
    """Return the row that the driver's error names, or None if ``missing_line`` has not raised the error."""
    # pg8000 raises with a dictionary.
    fields = error.orig.args[0] if error.orig is not None and error.orig.args else None
    named = _NAMED.search(str(fields.get("M") if isinstance(fields, dict) else error.orig))
    if named is None:
        return None
    line = orjson.loads(named["line"])
    return MissingRow(line["t"], line["k"], hidden=named[1] == _HIDDEN)


def secured_tables(connection: Connection) -> frozenset[str]:
    """Return the tables with row-level security, as ``schema.table``."""
    return frozenset(connection.scalars(_SECURED_TABLES, execution_options=INTERNAL_STATEMENT))


def is_active(connection: Connection, table: sa.Table) -> bool:
    """Return whether row-level security of the table is active for the current role."""
    query = sa.select(sa.literal_column(f"row_security_active({_regclass(table, connection.dialect)})", sa.Boolean))
    return bool(connection.execute(query, execution_options=INTERNAL_STATEMENT).scalar_one())


def has_right(connection: Connection, table: sa.Table, right: str, column: str | None) -> bool:
    """Return whether the current role has a right on the table, on a column of it, or on any column."""
    name = _regclass(table, connection.dialect)
    if column is not None:
        call = f"has_column_privilege({name}, {_quoted(column)}, {_quoted(right)})"
    elif right == "DELETE":
        call = f"has_table_privilege({name}, {_quoted(right)})"
    else:
        call = f"has_any_column_privilege({name}, {_quoted(right)})"
    return bool(connection.scalar(sa.select(sa.literal_column(call)), execution_options=INTERNAL_STATEMENT))


def _regclass(table: sa.Table, dialect: Dialect) -> str:
    """Return the table as a constant of the type regclass, whose oid the server finds when it parses the text."""
    # SQLAlchemy converts a literal column for the driver again.
    name = for_database(dialect.identifier_preparer.format_table(table), dialect)
    return "CAST(" + _quoted(name) + " AS regclass)"


def _literal(text: str) -> ColumnElement[str]:
    return sa.literal_column(_quoted(text), sa.Text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
