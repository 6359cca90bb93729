"""Open databases, with errors for users."""

from __future__ import annotations

import sqlite3
import time
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import NullPool

from rowcast.shared.database.driver_errors import ServerFault, server_fault
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.database.open_connections import note_opened
from rowcast.shared.database.sessions import remember_mysql_server, session_name
from rowcast.shared.database.timeouts import bound_connection, connect_arguments
from rowcast.shared.errors import ConfigurationError, LoginError, MissingExtraError, UnreachableError

_EXTRA_OF_BACKEND = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}


def open_engine(url: URL | str, what: str, *, pooled: bool = True, **options: object) -> Engine:
    """Return an engine for rowcast's own use, without connecting.

    ``what`` names the database in messages (``primary``, ``replica 'reporting'``). An asynchronous driver is replaced
    by the engine's synchronous driver, so that the application's URL works unchanged. No connection waits for ever for
    a lost server (``timeouts``, ``silence``).

    Raises MissingExtraError if the driver is not installed, ConfigurationError if the URL is not valid.
    """
    url = synchronous(sa.make_url(url))
    if not pooled:
        options["poolclass"] = NullPool
    try:
        # SQLAlchemy's errors repeat a statement's parameters. rowcast shows the driver's message.
        engine = sa.create_engine(url, connect_args=connect_arguments(url), hide_parameters=True, **options)
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF_BACKEND.get(url.get_backend_name())
        if extra is None:
            raise ConfigurationError(f"{what}: the driver {error.name!r} of {url} is not installed.") from error
        raise MissingExtraError(f"{what}: the database driver {error.name!r}", extra) from error
    except (exc.ArgumentError, ValueError) as error:
        raise ConfigurationError(f"{what}: {error}. Correct its url.") from error
    _own_engines.add(engine)
    _bound_connections(engine)
    _refuse_unusable_urls(engine, what)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _sqlite_connection)
    return engine


def _bound_connections(engine: Engine) -> None:
    """Give each new connection of a server timeouts, and a name for the session."""
    if engine.dialect.name == "sqlite":
        return

    @event.listens_for(engine, "do_connect")
    def name_session(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
        if (name := session_name(engine.url)) is not None:
            parameters["application_name"] = name

    @event.listens_for(engine, "connect")
    def bound(connection: Any, _record: object) -> None:
        if engine.dialect.name in ("mysql", "mariadb"):
            # Before the read timeout of the login ends.
            remember_mysql_server(connection)
        bound_connection(connection, engine.url)
        note_opened(connection, engine.url)


def _refuse_unusable_urls(engine: Engine, what: str) -> None:
    """Report an unusable host, file or option of the URL, because the driver raises no database error then."""

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: object, arguments: Any, parameters: dict[str, Any]) -> Any:
        try:
            return dialect.connect(*arguments, **parameters)
        except dialect.loaded_dbapi.Error:
            raise
        except (TypeError, ValueError, AttributeError, FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise ConfigurationError(
                f"{what}: the driver {engine.dialect.driver} cannot use the url {engine.url}: {error}. "
                "Correct the host, the name or the options behind the question mark."
            ) from error


_own_engines: WeakSet[Engine] = WeakSet()


def is_own_engine(engine: Engine) -> bool:
    """Return whether ``open_engine`` made the engine, and not the application."""
    return engine in _own_engines


_BUSY_S = 30


def _sqlite_connection(connection: object, _record: object) -> None:
    """Make a new connection wait for locks of other processes, and let readers work beside one writer."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_S * 1000:d}")
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # The change of mode ignores busy_timeout, and processes that start together block each other.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    cursor.close()


_SYNCHRONOUS = {
    "postgresql": "postgresql+psycopg",
    "postgresql+asyncpg": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mysql+aiomysql": "mysql+pymysql",
    "mysql+asyncmy": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
    "mariadb+aiomysql": "mariadb+pymysql",
    "mariadb+asyncmy": "mariadb+pymysql",
    "sqlite+aiosqlite": "sqlite",
}


def synchronous(url: URL) -> URL:
    """Return the URL of the database with the driver of rowcast's extras."""
    return url.set(drivername=_SYNCHRONOUS.get(url.drivername, url.drivername))


def reach(engine: Engine, what: str) -> None:
    """Connect once.

    Raises UnreachableError or LoginError, with the driver's reason and the next step.
    """
    try:
        with engine.connect():
            pass
    except exc.DBAPIError as error:
        raise unreachable(engine, what, error) from error


def unreachable(engine: Engine, what: str, error: exc.DBAPIError) -> UnreachableError | LoginError:
    """Return the error to raise when ``engine`` refuses a connection. It shows the URL without the password."""
    if server_fault(error) is ServerFault.LOGIN:
        return LoginError(
            f"the {what} database at {engine.url} refuses the login: {first_line(error)}. "
            "Correct the user, the password or the name of the database in its url."
        )
    hint = "Is it running, and are the host, port, name and password of its url right?"
    if engine.dialect.name == "sqlite":
        hint = "Does the folder exist, and may this user write the file?"
    return UnreachableError(f"cannot reach the {what} database at {engine.url}: {first_line(error)}. {hint}")
