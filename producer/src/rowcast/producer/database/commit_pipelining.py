"""Send a statement and COMMIT to PostgreSQL in one round trip, because the capture must not slow down a commit.

The pipeline mode of psycopg ends with a further round trip and would gain nothing. This module uses ``psycopg.pq``, one
level below. It only sends statements after psycopg has prepared them. psycopg keeps track of the prepared statements on
the server, for example after ``DISCARD ALL``, and with a connection pooler prepares nothing. All remaining statements
are sent in the usual way, and psycopg prepares them then.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

try:
    from psycopg import Connection as Driver
    from psycopg import errors, generators
    from psycopg._queries import PostgresQuery
    from psycopg.adapt import PyFormat, Transformer
    from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
except ImportError:
    _available = False
else:
    _available = True

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult


_ANSWERS = 3
"""The results to expect: of the statement, of COMMIT, and of the end of the pipeline."""


class CommitPipeline:
    """Send one statement, in the driver's form, together with COMMIT."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._text = b""
        self._order: list[str] | None = None

    def commit_with(self, connection: Connection, values: Any) -> bool:
        """Execute the statement and commit in one round trip. ``values``: in the form of the driver.

        Return False without doing anything if more round trips are needed. Raises SQLAlchemy's errors. After an error
        the transaction is not committed, or the outcome is unknown.
        """
        driver: Any = connection.connection.dbapi_connection if _available else None
        if type(driver) is not Driver or not _can_pipeline(driver):
            return False
        prepared = getattr(getattr(driver, "_prepared", None), "_names", None)
        if not prepared:
            return False
        if not self._text:
            self._convert(driver, values)
        transformer = Transformer(driver)
        ordered = values if self._order is None else [values[name] for name in self._order]
        parameters = transformer.dump_sequence(ordered, [PyFormat.AUTO] * len(ordered))
        name = prepared.get((self._text, transformer.types or ()))
        if name is None:
            return False
        if connection._echo:
            connection._log_info(self._sql)
            connection._log_parameters(values, "with COMMIT", ismulti=False)
        try:
            with driver.lock:
                results = _run(driver, name, parameters, transformer.formats)
        except errors.Error as error:
            connection._handle_dbapi_exception(error, None, None, None, None)
        if results and results[0].status == ExecStatus.FATAL_ERROR:
            connection._handle_dbapi_exception(_error_in(results[0], driver), self._sql, values, None, None)
        if len(results) < _ANSWERS:
            lost = errors.OperationalError("the connection was lost at COMMIT")
            connection._handle_dbapi_exception(lost, None, None, None, None)
        if results[1].status != ExecStatus.COMMAND_OK:
            connection._handle_dbapi_exception(_error_in(results[1], driver), None, None, None, None)
        return True

    def _convert(self, driver: Driver[Any], values: Any) -> None:
        """Convert the statement as psycopg does, because psycopg finds prepared statements by the converted text."""
        query = PostgresQuery(Transformer(driver))
        query.convert(self._sql, values)
        self._text, self._order = query.query, query._order


def _can_pipeline(driver: Driver[Any]) -> bool:
    """Return whether the connection is in a transaction, outside of a pipeline, and exchanges UTF-8."""
    state = driver.pgconn
    return (
        state.transaction_status == TransactionStatus.INTRANS
        and state.pipeline_status == PipelineStatus.OFF
        and state.parameter_status(b"client_encoding") == b"UTF8"
    )


def _run(driver: Driver[Any], name: bytes, parameters: Any, formats: Any) -> list[PGresult]:
    """Return the results of the statement, of COMMIT and of the end. Return fewer if the connection was lost."""
    state = driver.pgconn
    state.enter_pipeline_mode()
    try:
        results = driver.wait(_exchange(state, name, parameters, formats))
        if len(results) == _ANSWERS:
            state.exit_pipeline_mode()
    except BaseException:
        # The next statement would take results that were not read for its own.
        driver.close()
        raise
    return results


def _exchange(state: PGconn, name: bytes, parameters: Any, formats: Any) -> Generator[Any, Any, list[PGresult]]:
    state.send_query_prepared(name, parameters, param_formats=formats)
    state.send_query_params(b"COMMIT", None)
    state.pipeline_sync()
    yield from generators.send(state)
    results: list[PGresult] = []
    for _ in range(_ANSWERS):
        results += yield from generators.fetch_many(state)
    return results


def _error_in(result: PGresult, driver: Driver[Any]) -> errors.Error:
    return errors.error_from_result(result, encoding=driver.info.encoding)
