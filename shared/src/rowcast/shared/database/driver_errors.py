"""Read what database drivers report: the server's message, and whether the same statement may succeed later."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from enum import Enum
from typing import Any

from sqlalchemy import exc


class ServerFault(Enum):
    """Say why a server refused a statement, as far as a retry is concerned."""

    LOST = "the connection or the server is gone"
    CONTENDED = "another transaction holds a lock or a resource that the statement needs"
    UNAVAILABLE = "the server cannot run the statement now"
    TIMED_OUT = "the statement took longer than the server allows"
    READ_ONLY = "the database file cannot be written"
    LASTING = "the statement or its values are at fault"


# SQLite's primary result codes: busy, locked. No memory, interrupted, locking protocol, schema changed. I/O, disk full,
# cannot open.
_SQLITE = {
    **dict.fromkeys((5, 6), ServerFault.CONTENDED),
    **dict.fromkeys((7, 9, 15, 17), ServerFault.UNAVAILABLE),
    **dict.fromkeys((10, 13, 14), ServerFault.LOST),
    8: ServerFault.READ_ONLY,
}

# MySQL's and MariaDB's error numbers. Drivers call nearly all of them operational, so the class of the error says
# nothing. Numbers from 2,000 to 2,999 come from the client: the connection. Contended: lock timeout, deadlock.
# Unavailable: out of memory, too many connections, interrupted, table definition changed. Lost: shutdown, network.
_MYSQL = {
    **dict.fromkeys((1205, 1213), ServerFault.CONTENDED),
    **dict.fromkeys((1037, 1038, 1040, 1041, 1317, 1412), ServerFault.UNAVAILABLE),
    **dict.fromkeys((1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1927, 4031), ServerFault.LOST),
    **dict.fromkeys(range(2_000, 3_000), ServerFault.LOST),
}

# PostgreSQL's SQLSTATE codes, or their first two characters, which are the class.
_POSTGRESQL = {
    "08": ServerFault.LOST,
    "25P03": ServerFault.LOST,  # idle in transaction for too long
    "40": ServerFault.CONTENDED,
    "53": ServerFault.CONTENDED,
    "55P03": ServerFault.CONTENDED,  # lock timeout
    "57": ServerFault.LOST,
    "57014": ServerFault.TIMED_OUT,
}

_TRANSIENT = frozenset((ServerFault.LOST, ServerFault.CONTENDED, ServerFault.UNAVAILABLE))


def first_line(error: exc.DBAPIError) -> str:
    """Return the first line of the driver's message, without a full stop, for the middle of a sentence."""
    cause: BaseException = error.orig or error
    # MySQL's drivers raise with (number, text).
    is_numbered = len(cause.args) > 1 and isinstance(cause.args[0], int)
    text = str(cause.args[1] if is_numbered else cause).strip()
    return text.splitlines()[0].rstrip(".") if text else type(cause).__name__


def sqlstate(error: exc.DBAPIError) -> str:
    """Return PostgreSQL's code of the error, or an empty string if the server sent none."""
    return str(getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or "")


def mysql_number(error: exc.DBAPIError) -> int:
    """Return the error number of MySQL or MariaDB, or 0 if there is none."""
    arguments = error.orig.args if error.orig is not None else ()
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0


def server_fault(error: exc.DBAPIError) -> ServerFault:
    """Return why the server refused the statement, from the code in the driver's error."""
    cause: Any = error.orig
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", 0)
        return _SQLITE.get(code & 0xFF, ServerFault.LASTING)
    if number := mysql_number(error):
        return _MYSQL.get(number, ServerFault.LASTING)
    state = sqlstate(error)
    for code in _codes(state):
        if code in _POSTGRESQL:
            return _POSTGRESQL[code]
    if isinstance(error, exc.OperationalError):
        return ServerFault.UNAVAILABLE if state else ServerFault.LOST
    return ServerFault.LASTING


def _codes(state: str) -> Iterator[str]:
    yield state
    yield state[:2]


def is_transient(error: exc.DBAPIError) -> bool:
    """Return whether the same statement may succeed later.

    An unknown fault counts as lasting, because a retry would go on for ever.
    """
    if error.connection_invalidated:
        return True
    return isinstance(error, exc.OperationalError) and server_fault(error) in _TRANSIENT


def is_server_side(error: exc.DBAPIError) -> bool:
    """Return whether the driver's class of the error blames the server or the connection, and not the statement.

    ``is_transient`` is stricter, because it knows the server's codes.
    """
    return isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError)
