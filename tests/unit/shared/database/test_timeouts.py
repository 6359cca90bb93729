"""Connections are bounded, and the user's own parameters win."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from rowcast.shared.database.sessions import session_name
from rowcast.shared.database.timeouts import bound_connection, connect_arguments


def arguments(url: str) -> dict[str, Any]:
    return connect_arguments(make_url(url))


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_libpq_is_bounded_and_the_url_wins(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    assert arguments(f"postgresql+{driver}://h/d") == {
        "connect_timeout": 10,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    own = arguments(f"postgresql+{driver}://h/d?connect_timeout=3&keepalives_idle=60")
    assert not {"connect_timeout", "keepalives_idle"} & own.keys()
    assert own["tcp_user_timeout"] == 30_000
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")
    assert "connect_timeout" not in arguments(f"postgresql+{driver}://h/d")


def test_no_driver_limits_the_time_of_a_statement() -> None:
    for url in ("mysql+mysqldb://h/d", "mysql+mysqlconnector://h/d", "mariadb+mariadbconnector://h/d"):
        assert "read_timeout" not in arguments(url)
        assert arguments(url)["write_timeout"] == 300
    assert arguments("sqlite:///file") == {}


class PyMySQL:
    """The members of PyMySQL's connection that matter."""

    def __init__(self, peer: socket.socket) -> None:
        self._sock = peer
        self._read_timeout: float | None = 10.0


@pytest.mark.parametrize(("query", "timeout"), [("", None), ("?read_timeout=10", 10.0)])
def test_pymysql_has_a_read_timeout_only_until_the_login(query: str, timeout: float | None) -> None:
    url = make_url(f"mysql+pymysql://h/d{query}")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        connection = PyMySQL(peer)
        bound_connection(connection, url)
        assert connection._read_timeout == timeout
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


def test_a_name_of_the_users_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGAPPNAME", raising=False)
    name = session_name(make_url("postgresql+psycopg://h/d"))
    assert name is not None
    assert name.startswith("rowcast ")
    assert session_name(make_url("postgresql+psycopg://h/d?application_name=reports")) is None
    assert session_name(make_url("mysql+pymysql://h/d")) is None
    monkeypatch.setenv("PGAPPNAME", "reports")
    assert session_name(make_url("postgresql+psycopg://h/d")) is None
