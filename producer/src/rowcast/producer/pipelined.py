"""A statement and COMMIT in one round trip, with psycopg: the capture then adds none to the application's commit.

psycopg's own pipeline mode ends with a round trip more, so that it gains nothing here; this goes one level lower, to
``psycopg.pq``. Only statements that psycopg has prepared are sent so. It knows which of them the server still has,
after ``DISCARD ALL`` say, and where there may be none, behind a pooler; the others go the way of every statement, which
is also how psycopg comes to prepare them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
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


class Pipelined:
    """One statement, in the driver's form, that may be the last of its transaction."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._text = b""
        self._order: list[str] = []

    def commit_with(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        """Executes the statement and commits; False, and nothing is done, if that takes more than one round trip.

        Raises SQLAlchemy's errors. After one the transaction is not committed, or nobody knows.
        """
        driver: Any = connection.connection.dbapi_connection if _available else None
        if type(driver) is not Driver or not _is_in_a_plain_transaction(driver):
            return False
        prepared = getattr(getattr(driver, "_prepared", None), "_names", None)
        if not prepared:
            return False
        if not self._text:
            self._read(driver, values)
        transformer = Transformer(driver)
        parameters = transformer.dump_sequence([values[n] for n in self._order], [PyFormat.AUTO] * len(self._order))
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

    def _read(self, driver: Driver[Any], values: Mapping[str, Any]) -> None:
        """As psycopg reads it, which remembers under this text what it has prepared."""
        query = PostgresQuery(Transformer(driver))
        query.convert(self._sql, values)
        self._text, self._order = query.query, list(query._order or ())


def _is_in_a_plain_transaction(driver: Driver[Any]) -> bool:
    state = driver.pgconn
    return (
        state.transaction_status == TransactionStatus.INTRANS
        and state.pipeline_status == PipelineStatus.OFF
        and state.parameter_status(b"client_encoding") == b"UTF8"
    )


def _run(driver: Driver[Any], name: bytes, parameters: Any, formats: Any) -> list[PGresult]:
    """The answers to the statement, to COMMIT, and that these were all; fewer if the connection was lost meanwhile."""
    state = driver.pgconn
    state.enter_pipeline_mode()
    try:
        results = driver.wait(_exchange(state, name, parameters, formats))
        if len(results) == _ANSWERS:
            state.exit_pipeline_mode()
    except BaseException:
        # What was not read yet would be taken for the next statement's.
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
