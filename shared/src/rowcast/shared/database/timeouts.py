"""Bound the waiting of a database driver: for a connection, and for a peer that has vanished from the network.

No parameter limits the time of a statement, because a statement may rightly run for hours. A server that still
acknowledges packets but answers nothing is found by ``silence``.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

from sqlalchemy.engine import URL

from rowcast.shared.database.sockets import socket_of

CONNECT_S = 10

_KEEPALIVE_IDLE_S = 10
_KEEPALIVE_INTERVAL_S = 5
_KEEPALIVE_PROBES = 3
_UNACKNOWLEDGED_S = 30
# Longer than the sending of the longest statement takes on a slow network.
_WRITE_S = 300

_LIBPQ = {
    "connect_timeout": CONNECT_S,
    "keepalives": 1,
    "keepalives_idle": _KEEPALIVE_IDLE_S,
    "keepalives_interval": _KEEPALIVE_INTERVAL_S,
    "keepalives_count": _KEEPALIVE_PROBES,
    "tcp_user_timeout": _UNACKNOWLEDGED_S * 1000,
}

_BY_DRIVER: dict[str, dict[str, Any]] = {
    "psycopg": _LIBPQ,
    "psycopg2": _LIBPQ,
    # PyMySQL's connect_timeout ends before the server's greeting, which read_timeout limits. ``bound_connection``
    # lifts the read timeout after the login.
    "pymysql": {"connect_timeout": CONNECT_S, "read_timeout": CONNECT_S, "write_timeout": _WRITE_S},
    "mysqldb": {"connect_timeout": CONNECT_S, "write_timeout": _WRITE_S},
    "mysqlconnector": {"connection_timeout": CONNECT_S, "write_timeout": _WRITE_S},
    "mariadbconnector": {"connect_timeout": CONNECT_S, "write_timeout": _WRITE_S},
}


def connect_arguments(url: URL) -> dict[str, Any]:
    """Return the driver's arguments for the bounds of a connection, without arguments set by the URL or environment."""
    arguments = dict(_BY_DRIVER.get(url.get_driver_name(), {}))
    # libpq reads this variable, and an argument would override it.
    if "keepalives" in arguments and "PGCONNECT_TIMEOUT" in os.environ:
        del arguments["connect_timeout"]
    return {name: value for name, value in arguments.items() if name not in url.query}


def bound_connection(connection: Any, url: URL) -> None:
    """Set up a new connection of a driver: the network's timeouts, and no limit for the time of a statement."""
    _lift_read_timeout(connection, url)
    if url.get_driver_name() in ("psycopg", "psycopg2"):
        # libpq has set its socket up.
        return
    peer = socket_of(connection)
    if peer is None or peer.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with peer:
        _keep_alive(peer)


def _lift_read_timeout(connection: Any, url: URL) -> None:
    if url.get_driver_name() == "pymysql" and "read_timeout" not in url.query:
        connection._read_timeout = None


def _keep_alive(peer: socket.socket) -> None:
    """Let the kernel ask an idle peer for a sign of life. Options that the system lacks are left out."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_S * 1000),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            with suppress(OSError):
                peer.setsockopt(socket.IPPROTO_TCP, option, value)
