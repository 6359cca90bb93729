"""Adapt the rebuild to each engine: the objects that depend on a replica's tables, and the swap."""

from __future__ import annotations

from rowcast.consumer.rebuild.dialects.base import SwapDialect
from rowcast.consumer.rebuild.dialects.mysql import MySQLSwap
from rowcast.consumer.rebuild.dialects.postgresql import PostgreSQLSwap
from rowcast.consumer.rebuild.dialects.sqlite import SQLiteSwap
from rowcast.shared.errors import ConfigurationError

__all__ = ["SwapDialect", "swap_dialect"]

_CLASSES: dict[str, type[SwapDialect]] = {
    "postgresql": PostgreSQLSwap,
    "mysql": MySQLSwap,
    "mariadb": MySQLSwap,
    "sqlite": SQLiteSwap,
}


def swap_dialect(name: str) -> SwapDialect:
    """Return the object for SQLAlchemy's name of an engine. Raise ConfigurationError for an unknown engine."""
    if name not in _CLASSES:
        raise ConfigurationError(
            f"a replica on the engine {name!r} cannot be rebuilt beside its tables. Rebuild into an empty database "
            "with --into."
        )
    return _CLASSES[name]()
