"""Name the schemas of a database."""

from __future__ import annotations

from sqlalchemy.engine import Dialect

_MAIN = "main"


def default_schema(dialect: Dialect) -> str:
    """Return the schema of tables without a schema. SQLite has no schemas, and calls its own file ``main``.

    ``dialect`` belongs to a connected engine.
    """
    return dialect.default_schema_name or _MAIN
