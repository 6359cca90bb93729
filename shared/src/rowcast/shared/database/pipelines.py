"""Send several statements to PostgreSQL in one round trip, in libpq's pipeline mode.

``Connection.pipeline()`` of psycopg takes about as long as the saved round trip on a local socket. Therefore this
module uses ``psycopg.pq``, one level below.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

try:
    from psycopg import Connection as Driver
    from psycopg import Pipeline, errors, generators
    from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
except ImportError:
    _available = False
else:
    # The libpq of a distribution may be older than version 14, which has the first pipeline mode.
    _available = Pipeline.is_supported()

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

SentStatement = tuple[str | None, Any]
"""The text and the parameters of a statement, for the error. Without a text, the error shows neither."""


def pipelined_driver(connection: Connection, *, in_transaction: bool) -> Driver[Any] | None:
    """Return psycopg's connection if several statements can be sent at once, or None.

    ``in_transaction``: whether a transaction must be open already. The connection must exchange UTF-8.
    """
    driver: Any = connection.connection.dbapi_connection if _available else None
    if type(driver) is not Driver:
        return None
    state = driver.pgconn
    wanted = TransactionStatus.INTRANS if in_transaction else TransactionStatus.IDLE
    is_ready = (
        state.transaction_status == wanted
        and state.pipeline_status == PipelineStatus.OFF
        and state.parameter_status(b"client_encoding") == b"UTF8"
    )
    return driver if is_ready else None


def send_at_once(
    connection: Connection,
    driver: Driver[Any],
    statements: Sequence[SentStatement],
    send: Callable[[PGconn], None],
) -> list[PGresult]:
    """Let ``send`` send all ``statements``, and return their results. Raise SQLAlchemy's error of the first failure.

    The server skips all statements after a failed statement. After an error of the connection the outcome is unknown.
    """
    if connection._echo:
        for sql, parameters in statements:
            if sql is not None:
                connection._log_info(sql)
                connection._log_parameters(parameters, "in one round trip", ismulti=False)
    expected = len(statements) + 1
    try:
        with driver.lock:
            results = _run(driver, send, expected)
    except errors.Error as error:
        connection._handle_dbapi_exception(error, None, None, None, None)
    for result, (sql, parameters) in zip(results, statements, strict=False):
        if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            failure = errors.error_from_result(result, encoding=driver.info.encoding)
            connection._handle_dbapi_exception(failure, sql, None if sql is None else parameters, None, None)
    if len(results) < expected:
        lost = errors.OperationalError("the connection was lost before the server's answer")
        connection._handle_dbapi_exception(lost, None, None, None, None)
    return results[:-1]


def _run(driver: Driver[Any], send: Callable[[PGconn], None], expected: int) -> list[PGresult]:
    """Return the results of the statements and of the end. Return fewer if the connection was lost."""
    state = driver.pgconn
    state.enter_pipeline_mode()
    try:
        results = driver.wait(_exchange(state, send, expected))
        if len(results) == expected:
            state.exit_pipeline_mode()
    except BaseException:
        # The next statement would mistake unread results for its own.
        driver.close()
        raise
    return results


def _exchange(state: PGconn, send: Callable[[PGconn], None], expected: int) -> Generator[Any, Any, list[PGresult]]:
    send(state)
    state.pipeline_sync()
    yield from generators.send(state)
    results: list[PGresult] = []
    for _ in range(expected):
        results += yield from generators.fetch_many(state)
    return results
