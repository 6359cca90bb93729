"""Read the errors of database drivers: the server's code, and whether a retry of the statement may succeed."""

from __future__ import annotations

import re
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
    READ_ONLY = "the server or the database file cannot be written now"
    LOGIN = "the user, the password or the database of the URL is wrong"
    LASTING = "the statement or its values are at fault"


# SQLite's primary result codes: busy, locked. No memory, interrupted, locking protocol, schema changed. I/O, disk full,
# cannot open.
_SQLITE = {
    **dict.fromkeys((5, 6), ServerFault.CONTENDED),
    **dict.fromkeys((7, 9, 15, 17), ServerFault.UNAVAILABLE),
    **dict.fromkeys((10, 13, 14), ServerFault.LOST),
    8: ServerFault.READ_ONLY,
}

# MySQL's and MariaDB's error numbers. Drivers call nearly all errors operational, so the class of the error says
# nothing. Numbers from 2,000 to 2,999 come from the client: the connection.
_MYSQL = {
    # Lock timeout, deadlock, too many locks, too many transactions, row changed since the snapshot, lock with NOWAIT,
    # deadlocks of XA and of named locks, a rollback by group replication.
    **dict.fromkeys((1205, 1213, 1206, 1637, 1020, 3572, 1614, 3058, 3101), ServerFault.CONTENDED),
    # Out of memory, no thread, too many connections, host blocked, interrupted, table definition changed, sort aborted.
    **dict.fromkeys((1037, 1038, 1041, 1135, 1040, 1203, 1226, 1129, 1317, 1412, 1028), ServerFault.UNAVAILABLE),
    # A node of a Galera cluster that has no quorum or is being synchronised.
    1047: ServerFault.UNAVAILABLE,
    # Disk full, table full, errors of the storage engine and of files, errors during COMMIT and ROLLBACK.
    **dict.fromkeys((1021, 1114, 1030, 3, 1016, 1023, 1024, 1026, 1878, 1180, 1181), ServerFault.UNAVAILABLE),
    # Statement time on MariaDB and on MySQL.
    **dict.fromkeys((1969, 3024), ServerFault.TIMED_OUT),
    # read_only, read-only mode, read-only transaction, global read lock, offline mode.
    **dict.fromkeys((1290, 1836, 1792, 1223, 3032), ServerFault.READ_ONLY),
    # Access denied to the database and to the server, unknown database, expired password, locked account on MariaDB and
    # on MySQL, host not allowed.
    **dict.fromkeys((1044, 1045, 1698, 1049, 1820, 1862, 4151, 3118, 1130), ServerFault.LOGIN),
    # Shutdown, killed sessions, network.
    **dict.fromkeys((1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 3169, 4031), ServerFault.LOST),
    **dict.fromkeys(range(2_000, 3_000), ServerFault.LOST),
}

# PostgreSQL's SQLSTATE codes, or only the class, the first two characters.
_POSTGRESQL = {
    "08": ServerFault.LOST,
    "25006": ServerFault.READ_ONLY,
    "25P03": ServerFault.LOST,  # idle in transaction for too long
    "25P04": ServerFault.LOST,  # transaction for too long
    "28": ServerFault.LOGIN,
    "3D000": ServerFault.LOGIN,
    "40": ServerFault.CONTENDED,
    "53": ServerFault.UNAVAILABLE,  # disk full, out of memory, too many connections
    "54": ServerFault.LASTING,  # a row or an index entry is too long
    "55P03": ServerFault.CONTENDED,  # lock timeout
    "57": ServerFault.LOST,
    "57014": ServerFault.TIMED_OUT,
    "58": ServerFault.UNAVAILABLE,  # errors of files
    "XX": ServerFault.UNAVAILABLE,  # internal errors, as of two changes of one table at the same time
}

# libpq reports no code for a failed login, and the text of the server's message only.
_POSTGRESQL_LOGIN = re.compile(
    r"(password|peer|ident|GSSAPI|LDAP|certificate) authentication failed|no pg_hba\.conf entry"
    r"|no password supplied|is not permitted to log in|(database|role) \".*\" does not exist"
    r"|permission denied for database"
)

_TRANSIENT = frozenset((ServerFault.LOST, ServerFault.CONTENDED, ServerFault.UNAVAILABLE, ServerFault.READ_ONLY))


def sqlstate(error: exc.DBAPIError) -> str:
    """Return PostgreSQL's code of the error, or an empty string if the server sent none."""
    return str(getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or "")


def mysql_number(error: exc.DBAPIError) -> int:
    """Return the error number of MySQL or MariaDB, or 0 without a number."""
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
        if state:
            return ServerFault.UNAVAILABLE
        return ServerFault.LOGIN if _POSTGRESQL_LOGIN.search(str(cause)) else ServerFault.LOST
    return ServerFault.LASTING


def has_known_fault(error: exc.DBAPIError) -> bool:
    """Return whether the server, the connection or the login is at fault, and no value of the statement.

    ``is_transient`` is stricter: a login or a slow statement may be at fault for good.
    """
    return error.connection_invalidated or server_fault(error) is not ServerFault.LASTING


def _codes(state: str) -> Iterator[str]:
    yield state
    yield state[:2]


def is_transient(error: exc.DBAPIError) -> bool:
    """Return whether a retry of the statement may succeed.

    An unknown fault counts as lasting, because a retry would go on for ever.
    """
    return error.connection_invalidated or server_fault(error) in _TRANSIENT


# PostgreSQL's classes of errors about the values of a row, constraints, views with a check option, and rows and index
# entries that are too long. P0 is PL/pgSQL's RAISE, and 09, 27 and 38 are functions and triggers.
_POSTGRESQL_ROW_CLASSES = frozenset(("09", "22", "23", "27", "38", "44", "54", "P0"))
# Duplicate entries, NULL, missing and referring rows, checks on MySQL and MariaDB. Out of range, too long, truncated,
# wrong values, wrong JSON, wrong geometry. No default, no partition, a row that is too long. An error of a trigger.
_MYSQL_ROW_NUMBERS = frozenset(
    (
        1022, 1048, 1062, 1169, 1216, 1217, 1451, 1452, 1557, 1586, 1761, 1762, 3819, 4025, 1263, 1264, 1265, 1292,
        1366, 1367, 1406, 1411, 1416, 1441, 1525, 1690, 3140, 3141, 3156, 3157, 1364, 1526, 1748, 139, 1118, 1644,
    )
)  # fmt: skip
# Constraint, string or blob too large, datatype mismatch.
_SQLITE_ROW_CODES = frozenset((19, 18, 20))


def is_row_fault(error: exc.DBAPIError) -> bool:
    """Return whether the values of the row are at fault, and not the whole table, a right, or the server."""
    if isinstance(error, exc.IntegrityError | exc.DataError):
        return True
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _SQLITE_ROW_CODES
    if number := mysql_number(error):
        return number in _MYSQL_ROW_NUMBERS
    return sqlstate(error)[:2] in _POSTGRESQL_ROW_CLASSES


# Access denied to a database, a table, a column, a routine, and for want of a global right.
_MYSQL_RIGHTS = frozenset((1044, 1142, 1143, 1227, 1370))
_INSUFFICIENT_PRIVILEGE = "42501"


def is_missing_right(error: exc.DBAPIError) -> bool:
    """Return whether the user lacks the right to run the statement, or the database cannot be written."""
    missing = mysql_number(error) in _MYSQL_RIGHTS or sqlstate(error) == _INSUFFICIENT_PRIVILEGE
    return missing or server_fault(error) is ServerFault.READ_ONLY
