"""What rowcast needs of a connection, beside what SQLAlchemy offers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from sqlalchemy.engine import Connection

from rowcast.producer.touched import Touched


class OpenTransactions:
    """The notes of each connection's open transaction, for one engine's listeners.

    They are kept on the connection, whose life they share: they are asked for at every statement, which a dictionary
    with weak keys, its lock and its references, would make dearer.
    """

    _numbers = count()

    def __init__(self) -> None:
        # An engine may have listeners of several captures.
        self._attribute = f"_rowcast_notes_{next(self._numbers)}"

    def get(self, connection: Connection) -> Touched | None:
        """None if nothing was noted yet."""
        return connection.__dict__.get(self._attribute)

    def of(self, connection: Connection) -> Touched:
        """New ones if there are none."""
        notes = connection.__dict__.get(self._attribute)
        if notes is None:
            notes = connection.__dict__[self._attribute] = Touched()
        return notes

    def forget(self, connection: Connection) -> None:
        """The transaction is over."""
        connection.__dict__.pop(self._attribute, None)


def is_translated(connection: Connection) -> bool:
    """Whether a ``schema_translate_map`` of the connection holds."""
    return bool(connection._execution_options.get("schema_translate_map"))


def execute_without_result(connection: Connection, sql: str, parameters: Any) -> None:
    """Executes a statement that is ready for the driver, as ``exec_driver_sql`` does, but without events, options and
    result. Errors are SQLAlchemy's."""
    with _executed(connection, sql, parameters):
        pass


def fetch(connection: Connection, sql: str, parameters: Any) -> Sequence[Any]:
    """The rows, as the driver has them, of a statement executed like that."""
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
def untranslated(connection: Connection) -> Iterator[None]:
    """Within it no ``schema_translate_map`` of the connection holds: rowcast's own tables are where they are."""
    options = connection._execution_options
    connection._execution_options = options.union({"schema_translate_map": None})
    try:
        yield
    finally:
        connection._execution_options = options


def savepoint_name(connection: Connection, name: str | None) -> str:
    """The name of the savepoint that is about to be made: the event comes before SQLAlchemy has drawn it."""
    if name is not None:
        return name
    drawn: int = connection._Connection__savepoint_seq  # type: ignore[attr-defined]
    return f"sa_savepoint_{drawn + 1}"
