"""Reach the socket below a driver's connection: count its bytes, and cut it.

Another thread may be waiting inside the driver. Therefore nothing here calls the driver itself.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from os import dup
from typing import Any

# The places of tcpi_bytes_acked and tcpi_bytes_received in Linux's struct tcp_info, both of 64 bits.
_TCP_INFO_BYTES = struct.Struct("=120xQQ")

_SOCKETS: tuple[Callable[[Any], Any], ...] = (
    lambda connection: connection.pgconn.socket,  # psycopg
    lambda connection: connection._sock.fileno(),  # PyMySQL
    lambda connection: connection._socket.sock.fileno(),  # mysql-connector
    lambda connection: connection._usock.fileno(),  # pg8000
    lambda connection: connection.fileno(),  # psycopg2, mysqlclient
)


def socket_of(connection: Any) -> socket.socket | None:
    """Return a second handle of the connection's socket, to be closed by the caller, or None if there is no socket."""
    for number_of in _SOCKETS:
        # A driver without the attribute, or a closed connection.
        with suppress(Exception):
            return socket.socket(fileno=dup(number_of(connection)))
    return None


def moved_bytes(connection: Any) -> int | None:
    """Return the bytes that the connection has sent and received since its start, or None if the system cannot say."""
    peer = socket_of(connection)
    if peer is None:
        return None
    with peer:
        try:
            info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES.size)
            sent, received = _TCP_INFO_BYTES.unpack(info)
            return int(sent + received)
        except (AttributeError, OSError, struct.error):
            # Another system than Linux, a Unix socket, or a connection that has just ended.
            return None


def cut(connection: Any) -> bool:
    """End the connection's traffic, so that a waiting thread gets the driver's error. Any thread may call.

    Returns False if the connection has no socket.
    """
    peer = socket_of(connection)
    if peer is None:
        return False
    with peer, suppress(OSError):
        peer.shutdown(socket.SHUT_RDWR)
    return True
