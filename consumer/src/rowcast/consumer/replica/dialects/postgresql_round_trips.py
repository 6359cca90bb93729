"""Begin and end a replica transaction on PostgreSQL in one round trip each, because most transactions are small.

Six statements would wait for six answers, and a network takes a millisecond for each. psycopg sends BEGIN by itself, so
it finds an open transaction, and no open transaction when SQLAlchemy commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection
from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.shared.database.pipelines import pipelined_driver, send_at_once

if TYPE_CHECKING:
    from psycopg import Connection as Driver
    from psycopg.pq.abc import PGconn

# With the placeholders of the server's own protocol.
_DIALECT = postgresql.dialect(paramstyle="numeric_dollar")


def begin_with(
    connection: Connection, statement: sa.Update, parameters: Mapping[str, Any], *, defer_foreign_keys: bool
) -> int | None:
    """Begin a transaction with a statement. Return the number of updated rows.

    Return None without doing anything if the driver cannot send both at once. Raise SQLAlchemy's errors.
    ``defer_foreign_keys``: check foreign keys at the end of the transaction.
    """
    driver = pipelined_driver(connection, in_transaction=False)
    if driver is None:
        return None
    sql, names = _compiled(statement)
    values = [parameters[name] for name in names]

    def send(state: PGconn) -> None:
        state.send_query_params(b"BEGIN", None)
        _send(driver, state, sql, values)
        if defer_foreign_keys:
            state.send_query_params(b"SET CONSTRAINTS ALL DEFERRED", None)

    statements = [(None, None), (sql, values), *([(None, None)] if defer_foreign_keys else [])]
    updated = send_at_once(connection, driver, statements, send)[1].command_tuples
    return updated or 0


def commit_with(connection: Connection, sql: str, values: Sequence[Any]) -> bool:
    """Execute a statement and commit. ``sql``: with the placeholders ``$1``, ``$2``.

    Return False without doing anything if the driver cannot send both at once. Raise SQLAlchemy's errors.
    """
    driver = pipelined_driver(connection, in_transaction=True)
    if driver is None:
        return False

    def send(state: PGconn) -> None:
        _send(driver, state, sql, values)
        state.send_query_params(b"COMMIT", None)

    send_at_once(connection, driver, [(sql, values), (None, None)], send)
    return True


@lru_cache(maxsize=8)
def _compiled(statement: sa.Update) -> tuple[str, Sequence[str]]:
    """Return the text and the names of the parameters in their order."""
    compiled = statement.compile(dialect=_DIALECT)
    assert isinstance(compiled, SQLCompiler)
    return str(compiled), compiled.positiontup or ()


def _send(driver: Driver[Any], state: PGconn, sql: str, values: Sequence[Any]) -> None:
    from psycopg.adapt import PyFormat, Transformer

    transformer = Transformer(driver)
    parameters = transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
    state.send_query_params(sql.encode(), parameters, transformer.types, transformer.formats)
