"""Write names and SQL in the form that the engine's driver wants."""

from __future__ import annotations

from sqlalchemy.engine import Connection


def quoted_name(connection: Connection, schema: str | None, name: str) -> str:
    """Return ``schema.table`` in the engine's quotes, ready for the driver. Names are quoted in any case."""
    preparer = connection.dialect.identifier_preparer
    parts = [preparer.quote_identifier(part) for part in (schema, name) if part]
    return ".".join(parts)


def for_driver(connection: Connection, sql: str) -> str:
    """Return SQL with each percent sign as the driver wants it."""
    return sql.replace("%", "%%") if doubles_percents(connection) else sql


def for_people(connection: Connection, sql: str) -> str:
    """Turn SQL for the driver into SQL for a person."""
    return sql.replace("%%", "%") if doubles_percents(connection) else sql


def doubles_percents(connection: Connection) -> bool:
    """Return whether the driver takes %% for a percent sign."""
    return bool(connection.dialect.identifier_preparer._double_percents)
