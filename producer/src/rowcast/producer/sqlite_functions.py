"""What SQLite lacks for row images, given to the application's connections when they first need it."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from rowcast.shared.images import register_functions

_GIVEN = "rowcast"


def ensure_functions(connection: Connection) -> None:
    """Nothing to do on other engines."""
    if connection.dialect.name == "sqlite" and _GIVEN not in connection.info:
        register_functions(connection.connection.dbapi_connection)
        connection.info[_GIVEN] = True
