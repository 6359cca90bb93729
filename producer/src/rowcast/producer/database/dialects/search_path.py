"""Find out on PostgreSQL in which schema a table without a schema is, and fail if the search path was changed.

The outbox row may go to the server together with COMMIT. Therefore the statement itself must fail.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.engine import Connection, Dialect

from rowcast.producer.database.dialects.percent_signs import for_database
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT, UNTRANSLATED
from rowcast.shared.images import Concatenation

CHANGES = re.compile(r"\bsearch_path\b|\bset\s+(?:local\s+|session\s+)?schema\b|\b(?:reset|discard)\s+all\b", re.I)

_CHANGED = "rowcast search_path "
_IN_ERROR = re.compile(f"{_CHANGED}<(?P<path>[^>]*)>")

_SCHEMA_OF = sa.text(
    "SELECT (SELECT nspname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
    "WHERE c.oid = to_regclass(:name)), to_regclass('rowcast_outbox') IS NOT NULL"
)


def schema_of(connection: Connection, name: str) -> tuple[str | None, bool]:
    """Return the schema in which the search path finds a table, and whether it finds the outbox."""
    quoted = for_database(connection.dialect.identifier_preparer.quote(name), connection.dialect)
    row = connection.execute(_SCHEMA_OF, {"name": quoted}, execution_options={**UNTRANSLATED, **INTERNAL_STATEMENT})
    schema, has_outbox = row.one()
    return schema, bool(has_outbox)


def placed_text(text: ColumnElement[str], tables: Sequence[sa.Table], dialect: Dialect) -> ColumnElement[str]:
    """Return ``text``, or an error if the search path finds a table outside the default schema.

    The error is that of a text which is no number. It contains the search path, and is not evaluated beforehand,
    because the search path is no constant.
    """
    if not tables:
        return text
    path = sa.literal_column("current_setting('search_path')", sa.Text)
    message = Concatenation(sa.literal_column(f"'{_CHANGED}<'", sa.Text), path, sa.literal_column("'>'", sa.Text))
    error: ColumnElement[str] = sa.cast(sa.cast(message, sa.Integer), sa.Text)
    in_place = sa.literal_column(" AND ".join(in_place_sql(table, dialect) for table in tables), sa.Boolean)
    return sa.case((in_place, text), else_=error)


def in_place_sql(table: sa.Table, dialect: Dialect) -> str:
    """Return the SQL condition, for the database, that the search path finds a table in the default schema.

    The server looks up a constant of the type regclass when it parses the text, and again after the search path was
    changed.
    """
    preparer = dialect.identifier_preparer
    found = preparer.quote(str(table.name))
    expected = f"{preparer.quote(dialect.default_schema_name or '')}.{found}"
    found, expected = (_quoted(for_database(name, dialect)) for name in (found, expected))
    return f"CAST({found} AS regclass) = to_regclass({expected})"


def changed_path(error: exc.DBAPIError) -> str | None:
    """Return the search path that the driver's error names, or None if ``placed_text`` has not raised the error."""
    found = _IN_ERROR.search(str(error.orig))
    return None if found is None else found["path"]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
