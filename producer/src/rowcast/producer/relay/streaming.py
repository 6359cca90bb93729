"""A statement's rows one by one, few of which are in memory at once.

With psycopg they come as the server makes them. Through a cursor of the server, which is how SQLAlchemy streams, it
makes some and waits until they are asked for: a third slower.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

try:
    from psycopg import Connection as Driver
    from psycopg import Error, capabilities
except ImportError:
    _chunked = False
else:
    _chunked = capabilities.has_stream_chunked()

_Rows: TypeAlias = Generator[Sequence[Any], None, None]

_AT_ONCE = 100
_STREAMING = {"stream_results": True, "max_row_buffer": _AT_ONCE}


def streamed(connection: Connection, statement: sa.Select[Any]) -> _Rows:
    """To be closed. If it has not come to its end by then, nothing more can be read in the transaction.

    Values pass as the driver has them, and as it takes them. Raises SQLAlchemy's errors.
    """
    driver: Any = connection.connection.dbapi_connection
    if _chunked and type(driver) is Driver:
        yield from _from_psycopg(connection, driver, statement)
        return
    with connection.execute(statement, execution_options=_STREAMING) as found:
        for some in found.partitions(_AT_ONCE):
            yield from some


def _from_psycopg(connection: Connection, driver: Any, statement: sa.Select[Any]) -> _Rows:
    compiled = statement.compile(dialect=connection.dialect)
    try:
        with driver.cursor() as cursor:
            yield from cursor.stream(str(compiled), compiled.params, size=_AT_ONCE)
    except Error as error:
        connection._handle_dbapi_exception(error, str(compiled), compiled.params, None, None)
