"""Opening databases, with errors that a user can act on."""

from __future__ import annotations

import sqlite3
import time

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import NullPool

from rowcast.shared.errors import ConfigurationError, MissingExtraError, UnreachableError

_EXTRA_OF_BACKEND = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}


def open_engine(url: URL | str, what: str, *, pooled: bool = True, **options: object) -> Engine:
    """An engine for rowcast's own use. ``what`` names the database in messages (``primary``, ``replica 'reporting'``).

    Asynchronous drivers are replaced by the engine's synchronous one, so that an application's URL serves as it is.
    Raises MissingExtraError if the driver is not installed. Connects to nothing yet.
    """
    url = synchronous(sa.make_url(url))
    if not pooled:
        options["poolclass"] = NullPool
    try:
        engine = sa.create_engine(url, **options)
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF_BACKEND.get(url.get_backend_name())
        if extra is None:
            raise ConfigurationError(f"{what}: the driver {error.name!r} of {url} is not installed.") from error
        raise MissingExtraError(f"{what}: the database driver {error.name!r}", extra) from error
    except exc.ArgumentError as error:
        raise ConfigurationError(f"{what}: {error}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _sqlite_connection)
    return engine


_BUSY_S = 30


def _sqlite_connection(connection: object, _record: object) -> None:
    """Wait for other processes' locks rather than fail, and let readers and one writer work side by side."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_S * 1000:d}")
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # The change of mode does not heed the timeout: processes that start at once get in each other's way.
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
    """The same database through the driver that rowcast's extras bring."""
    return url.set(drivername=_SYNCHRONOUS.get(url.drivername, url.drivername))


def reach(engine: Engine, what: str) -> None:
    """Connects once. Raises UnreachableError with the driver's reason and the next step."""
    try:
        with engine.connect():
            pass
    except exc.DBAPIError as error:
        raise unreachable(engine, what, error) from error


def unreachable(engine: Engine, what: str, error: exc.DBAPIError) -> UnreachableError:
    """The error to raise when ``engine`` does not answer; the URL is shown without its password."""
    reason = str(error.orig).strip().splitlines()[0] if error.orig else str(error)
    return UnreachableError(
        f"cannot reach the {what} database at {engine.url}: {reason}. "
        "Is it running, and are the host, port, name and password of its url right?"
    )
