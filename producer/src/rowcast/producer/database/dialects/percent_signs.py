"""Convert SQL text between the form of the driver and the form of the database.

Drivers with the paramstyle "format" or "pyformat" read a single % as the start of a parameter, so SQLAlchemy doubles
the % signs in names and texts for most of these drivers.
"""

from __future__ import annotations

from sqlalchemy.engine import Dialect


def for_driver(sql: str, dialect: Dialect) -> str:
    """Return the text for the driver of a text for the database."""
    return sql.replace("%", "%%") if dialect.identifier_preparer._double_percents else sql


def for_database(sql: str, dialect: Dialect) -> str:
    """Return the text for the database of a text for the driver, as of a name that SQLAlchemy has quoted."""
    return sql.replace("%%", "%") if dialect.identifier_preparer._double_percents else sql
