"""Execute SQL below SQLAlchemy's events, and read private state of connections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.shared.errors import CaptureError


def is_translated(connection: Connection) -> bool:
    """Return whether the connection has a ``schema_translate_map``."""
    return bool(connection._execution_options.get("schema_translate_map"))


def execute_without_result(connection: Connection, sql: str, parameters: Any) -> int:
    """Execute a statement in the driver's form, like ``exec_driver_sql`` but without events, options and result.

    Return the number of changed rows that the driver reports. Raises SQLAlchemy's errors, and CaptureError if SQLite
    returns the number as a row, because the driver has then reported 0 for the application's statements too.
    """
    with _executed(connection, sql, parameters) as cursor:
        if cursor.description is not None:
            raise CaptureError(
                "this connection has PRAGMA count_changes = ON, so that the driver reports no numbers of changed rows, "
                "and the capture cannot know whether the statements found their rows. Nothing is committed. Leave out "
                "the pragma, which SQLite has deprecated, and read rowcount instead."
            )
        changed: int = cursor.rowcount
    return changed


def execute_as_commit(connection: Connection, sql: str) -> None:
    """Execute a statement that fails as COMMIT would: with SQLAlchemy's error without a statement."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql)
    except connection.dialect.loaded_dbapi.Error as error:
        connection._handle_dbapi_exception(error, None, None, None, None)
    finally:
        cursor.close()


def fetch(connection: Connection, sql: str, parameters: Any) -> Sequence[Any]:
    """Return the rows, as the driver has them, of a statement executed like ``execute_without_result``."""
    with _executed(connection, sql, parameters) as cursor:
        rows: Sequence[Any] = cursor.fetchall()
        return rows


@contextmanager
def _executed(connection: Connection, sql: str, parameters: Any) -> Iterator[Any]:
    if connection._echo:
        connection._log_info(sql)
        connection._log_parameters(parameters, "raw sql", ismulti=False)
    cursor = connection.connection.cursor()
    try:
        connection.dialect.do_execute(cursor, sql, parameters)
        yield cursor
    except connection.dialect.loaded_dbapi.Error as error:
        connection._handle_dbapi_exception(error, sql, parameters, cursor, None)
    finally:
        cursor.close()


@contextmanager
def keeping_options(connection: Connection) -> Iterator[None]:
    """Restore the connection's execution options after the block, which may use SQLAlchemy's reflection.

    On MariaDB and MySQL, reflection leaves an option on the connection. The option would hide the application's errors
    from all listeners, also from the capture.
    """
    options = connection._execution_options
    try:
        yield
    finally:
        connection._execution_options = options


@contextmanager
def untranslated(connection: Connection) -> Iterator[None]:
    """Ignore the connection's ``schema_translate_map`` in the block, for statements on rowcast's own tables."""
    options = connection._execution_options
    connection._execution_options = options.union({"schema_translate_map": None})
    try:
        yield
    finally:
        connection._execution_options = options


def savepoint_name(connection: Connection, name: str | None) -> str:
    """Return the name of the savepoint that is about to be set.

    SQLAlchemy sends the event before the name of an unnamed savepoint is made up.
    """
    if name is not None:
        return name
    last: int = connection._Connection__savepoint_seq  # type: ignore[attr-defined]
    return f"sa_savepoint_{last + 1}"


def is_autocommit(connection: Connection) -> bool:
    """Return whether each statement on the connection is committed by itself.

    ``connect_args`` or the application may have set the driver's autocommit without SQLAlchemy's knowledge.
    """
    return connection._is_autocommit_isolation() or capture_dialect(connection.dialect).is_autocommit(
        connection.connection
    )
