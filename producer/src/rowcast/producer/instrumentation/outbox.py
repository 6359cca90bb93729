"""Make sure that the outbox exists before a program writes."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.producer.outbox.creation import create_missing_tables
from rowcast.producer.outbox.schema import missing_parts, outbox_tables
from rowcast.shared.errors import ConfigurationError


def require_outbox(connection: Connection, *, create: bool) -> None:
    """Check the outbox tables on a connection outside a transaction, or create the missing tables.

    Raises ConfigurationError if a table is missing, or created by another version of rowcast.
    """
    tables = outbox_tables(sa.MetaData())
    missing = _first_missing(connection, tables)
    if missing and create:
        try:
            create_missing_tables(connection, tables)
            connection.commit()
        except exc.DBAPIError:
            # Another process may have created the tables meanwhile.
            connection.rollback()
            if _first_missing(connection, tables):
                raise
    elif missing:
        connection.rollback()
        raise ConfigurationError(
            f"rowcast instrument: in {connection.engine.url} the table {missing}. With --create-outbox, rowcast "
            "instrument creates the tables itself."
        )
    connection.rollback()


def _first_missing(connection: Connection, tables: object) -> str:
    assert isinstance(tables, type(outbox_tables(sa.MetaData())))
    for table in (tables.shape, tables.outbox):
        if missing := missing_parts(table, connection):
            return f"{table.name} {missing}"
    return ""
