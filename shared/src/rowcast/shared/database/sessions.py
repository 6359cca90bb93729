"""Ask a server, on another connection, whether a session works or waits for the client.

Client and server wait for each other for ever, if the network between them has lost the connection without a word.
"""

from __future__ import annotations

import os
import secrets
from enum import Enum
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection

from rowcast.shared.database.driver_errors import ServerFault, server_fault
from rowcast.shared.database.timeouts import connect_arguments

_LOOK_S = 5
_NAME_PREFIX = "rowcast "


class SessionState(Enum):
    """Say what the server does for a connection."""

    WORKING = "the server works for the connection"
    WAITING = "the server waits for the client"
    SILENT = "the server does not answer a new connection"
    ENDED = "the server has ended the session"
    UNKNOWN = "the server does not show the session"


def session_name(url: URL) -> str | None:
    """Return a new name for a session, or None if the engine has no session names or the user has set a name.

    A pooler like PgBouncer hides the process id of PostgreSQL's session, but passes the name on.
    """
    if url.get_driver_name() not in ("psycopg", "psycopg2"):
        return None
    if "application_name" in url.query or "PGAPPNAME" in os.environ:
        return None
    return f"{_NAME_PREFIX}{secrets.token_hex(4)}"


def session_state(url: URL, connection: Any) -> SessionState:
    """Return what the server at ``url`` does for the driver's ``connection``, of which another thread may be using."""
    look = {"postgresql": _postgresql, "mysql": _mysql, "mariadb": _mysql}.get(url.get_backend_name())
    if look is None:
        return SessionState.UNKNOWN
    arguments = connect_arguments(url)
    arguments |= {name: _LOOK_S for name in arguments if name in ("connect_timeout", "connection_timeout")}
    if url.get_driver_name() == "pymysql":
        arguments |= {"read_timeout": _LOOK_S, "write_timeout": _LOOK_S}
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=arguments, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as asking:
            return look(asking, connection)
    except exc.DBAPIError as error:
        # A refusal, as of too many connections, comes from a living server.
        return SessionState.SILENT if server_fault(error) is ServerFault.LOST else SessionState.UNKNOWN


_POSTGRESQL = sa.text(
    # A pooler may append the client's address to the name of a session.
    "SELECT state, wait_event_type FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND "
    "CASE WHEN CAST(:name AS text) IS NULL THEN pid = :pid ELSE application_name LIKE :name || '%' END"
)


def _postgresql(asking: Connection, connection: Any) -> SessionState:
    name, pid = _postgresql_identity(connection)
    own = name is not None and name.startswith(_NAME_PREFIX)
    rows = asking.execute(_POSTGRESQL, {"name": name if own else None, "pid": pid}).all()
    if any(state is None for state, _ in rows) or not (rows or own):
        # Another role's session, or a session hidden by a pooler.
        return SessionState.UNKNOWN
    working = any(state == "active" and waits_for != "Client" for state, waits_for in rows)
    return SessionState.WORKING if working else SessionState.WAITING


def _postgresql_identity(connection: Any) -> tuple[str | None, int]:
    """Return the application name and the process id of the session, as the driver remembers them."""
    if (info := getattr(connection, "pgconn", None)) is not None:
        name = info.parameter_status(b"application_name")
        return (None if name is None else name.decode()), info.backend_pid
    return connection.get_parameter_status("application_name"), connection.get_backend_pid()


_MYSQL = sa.text("SELECT command, state FROM information_schema.processlist WHERE id = :id")

_MYSQL_SERVER = "SELECT @@hostname, @@port, CONNECTION_ID()"
_mysql_servers: WeakKeyDictionary[Any, tuple[str, int]] = WeakKeyDictionary()
"""The servers of connections that no proxy gave a number of its own."""

_MYSQL_WAITS_FOR_CLIENT = ("writing to net", "sending to client", "reading from net", "receiving from client")


def remember_mysql_server(connection: Any) -> None:
    """Remember the server of a new connection to MariaDB or MySQL. If it lacks the session later, the session is over.

    Behind ProxySQL the number of the session is the proxy's. Behind a load balancer, a later connection may lead to
    another server, which does not show the session either.
    """
    if (server := _mysql_server(connection)) is not None:
        _mysql_servers[connection] = server


def _mysql_server(connection: Any) -> tuple[str, int] | None:
    """Return host and port of the server, or None if a proxy hides the session's number."""
    cursor = connection.cursor()
    cursor.execute(_MYSQL_SERVER)
    host, port, number = cursor.fetchone()
    cursor.close()
    return (host, port) if number == _mysql_number(connection) else None


def _mysql_number(connection: Any) -> int | None:
    """Return the number of the session, as the driver remembers it."""
    thread_id = getattr(connection, "thread_id", None)
    return thread_id() if callable(thread_id) else getattr(connection, "connection_id", None)


def _mysql(asking: Connection, connection: Any) -> SessionState:
    row = asking.execute(_MYSQL, {"id": _mysql_number(connection)}).first()
    if row is None:
        known = _mysql_servers.get(connection)
        is_same = known is not None and known == _mysql_server(asking.connection.dbapi_connection)
        return SessionState.ENDED if is_same else SessionState.UNKNOWN
    command, state = row
    waits = command == "Sleep" or (state or "").lower().startswith(_MYSQL_WAITS_FOR_CLIENT)
    return SessionState.WAITING if waits else SessionState.WORKING
