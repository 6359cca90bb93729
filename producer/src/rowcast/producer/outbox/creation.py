"""Create the outbox tables where no migration and no ``create_all`` of the application does."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from rowcast.producer.outbox.schema import OutboxTables, missing_parts
from rowcast.shared.errors import ConfigurationError


def create_missing_tables(
    bind: Engine | Connection, tables: OutboxTables, finish: Callable[[Connection], None] = lambda _connection: None
) -> None:
    """Create the missing tables of ``tables``, in a transaction of their own if ``bind`` is an engine.

    ``finish``: the last step of the transaction.

    Several processes may create the tables at the same time. Raises ConfigurationError if another version of rowcast
    has created a table, or if ``bind`` is of another kind.
    """
    if isinstance(bind, Connection):
        _create(bind, tables)
        finish(bind)
    elif isinstance(bind, Engine):
        _create_beside_others(bind, tables, finish)
    else:
        raise ConfigurationError(
            f"cannot create the outbox tables on {bind!r}. Give an Engine or a Connection. With an AsyncEngine: "
            "async with engine.begin() as connection: await connection.run_sync(capture.create_outbox)"
        )


def _create_beside_others(engine: Engine, tables: OutboxTables, finish: Callable[[Connection], None]) -> None:
    """Try again after an error, because another process may be creating the tables."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with engine.begin() as connection:
                _create(connection, tables)
                finish(connection)
            return
        except exc.DBAPIError:
            if attempt == _ATTEMPTS:
                raise
            time.sleep(_PAUSE_S * attempt)


_ATTEMPTS = 6
_PAUSE_S = 0.05


def _create(connection: Connection, tables: OutboxTables) -> None:
    # All six tables have the metadata of the first.
    tables.outbox.metadata.create_all(connection, tables=list(tables))
    for table in tables:
        if missing := missing_parts(table, connection):
            raise ConfigurationError(f"in {connection.engine.url} the table {table.name} {missing}.")
