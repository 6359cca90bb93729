"""Stream the rows of a statement, with only a few rows in memory at a time.

psycopg can stream rows as the server produces them. SQLAlchemy streams through a server-side cursor: the server
produces some rows and waits until the client asks for more. A cursor takes a third longer.
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
    _can_stream_chunked = False
else:
    _can_stream_chunked = capabilities.has_stream_chunked()

_Rows: TypeAlias = Generator[Sequence[Any], None, None]

_ROWS_AT_ONCE = 100
_STREAMING = {"stream_results": True, "max_row_buffer": _ROWS_AT_ONCE}


def stream_rows(connection: Connection, statement: sa.Select[Any]) -> _Rows:
    """Yield the rows of a statement, with the driver's own values.

    The caller closes the generator. After an early close, the transaction can read nothing more. Raises
    SQLAlchemy's errors.
    """
    driver: Any = connection.connection.dbapi_connection
    if _can_stream_chunked and type(driver) is Driver:
        yield from _stream_by_psycopg(connection, driver, statement)
        return
    with connection.execute(statement, execution_options=_STREAMING) as found:
        for some in found.partitions(_ROWS_AT_ONCE):
            yield from some


def _stream_by_psycopg(connection: Connection, driver: Any, statement: sa.Select[Any]) -> _Rows:
    compiled = statement.compile(dialect=connection.dialect)
    try:
        with driver.cursor() as cursor:
            yield from cursor.stream(str(compiled), compiled.params, size=_ROWS_AT_ONCE)
    except Error as error:
        connection._handle_dbapi_exception(error, str(compiled), compiled.params, None, None)
