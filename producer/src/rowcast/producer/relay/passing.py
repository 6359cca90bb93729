"""Whether a statement that the primary has refused may succeed later as it is."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import exc

# Primary result codes: busy, locked, no memory, interrupted, I/O, full, cannot open, locking protocol, schema changed.
_SQLITE = frozenset((5, 6, 7, 9, 10, 13, 14, 15, 17))
# Drivers call nearly all of the server's errors operational. From 2,000 on: the connection; else too many connections,
# memory, shutdown, network, lock, deadlock, killed, the table's definition has changed, the server is starting.
_MYSQL_CONNECTION = range(2_000, 3_000)
_MYSQL = frozenset((1037, 1038, 1040, 1041, 1053, 1077, 1079, 1158, 1159, 1160, 1161, 1205, 1213, 1317, 1412, 1927))
# statement_timeout: it would be no quicker the next time.
_POSTGRESQL_TIMED_OUT = "57014"


def is_passing(error: exc.DBAPIError) -> bool:
    """What is not known to pass is taken to last: whoever repeats it would do so for ever."""
    if error.connection_invalidated:
        return True
    if not isinstance(error, exc.OperationalError):
        return False
    cause: Any = error.orig
    if isinstance(cause, sqlite3.Error):
        return cause.sqlite_errorcode & 0xFF in _SQLITE
    code = cause.args[0] if cause is not None and cause.args else None
    if isinstance(code, int):
        return code in _MYSQL or code in _MYSQL_CONNECTION
    return getattr(cause, "sqlstate", None) != _POSTGRESQL_TIMED_OUT
