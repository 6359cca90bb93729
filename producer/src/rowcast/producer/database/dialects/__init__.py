"""Find the capture dialect of a database engine: the class with everything special to the engine.

Each engine has a class, registered under SQLAlchemy's name of the engine in the entry point group
``rowcast.capture_dialects``. A further distribution can register more engines.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy.engine import Dialect

from rowcast.producer.database.dialects.base import CaptureDialect
from rowcast.producer.database.dialects.keys import KeyDialect
from rowcast.shared.engine_registry import class_for_engine, engines_in
from rowcast.shared.errors import ConfigurationError

if TYPE_CHECKING:
    # PyInstaller and similar tools find modules by import statements, and not by the names in BUILT_IN.
    from rowcast.producer.database.dialects import mysql, postgresql, sqlite  # noqa: F401

__all__ = ["GROUP", "CaptureDialect", "KeyDialect", "capture_dialect", "capture_dialect_named", "find_capture_dialect"]

GROUP = "rowcast.capture_dialects"

BUILT_IN = {
    "postgresql": "rowcast.producer.database.dialects.postgresql:PostgreSQLCapture",
    "mysql": "rowcast.producer.database.dialects.mysql:MySQLCapture",
    "mariadb": "rowcast.producer.database.dialects.mysql:MySQLCapture",
    "sqlite": "rowcast.producer.database.dialects.sqlite:SQLiteCapture",
}
"""The same entries as in pyproject.toml. See ``class_for_engine``."""


def capture_dialect(dialect: Dialect) -> CaptureDialect:
    """Return the capture dialect of a SQLAlchemy dialect. All engines of a kind share a stateless object.

    Raises ConfigurationError if no dialect is registered under the engine's name.
    """
    return _registered(dialect.name) or capture_dialect_named(dialect.name)


def find_capture_dialect(dialect: Dialect) -> CaptureDialect | None:
    """Return the capture dialect of a SQLAlchemy dialect, or None without a registration for the engine."""
    return _registered(dialect.name)


def capture_dialect_named(engine: str) -> CaptureDialect:
    """Return the capture dialect for SQLAlchemy's name of an engine. Raises ConfigurationError as capture_dialect."""
    found = _registered(engine)
    if found is None:
        raise ConfigurationError(
            f"rowcast cannot capture changes on the engine {engine!r}, because no capture dialect is registered for "
            f"it. Install a package that registers one in the entry point group {GROUP!r}, or keep the captured tables "
            f"on one of: {', '.join(engines_in(GROUP, BUILT_IN))}."
        )
    return found


@cache
def _registered(engine: str) -> CaptureDialect | None:
    cls: type[CaptureDialect] | None = class_for_engine(GROUP, engine, BUILT_IN)
    return None if cls is None else cls()
