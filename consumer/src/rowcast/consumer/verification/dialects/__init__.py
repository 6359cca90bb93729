"""Adapt the comparison to each engine. ``base.VerifyDialect`` describes the duties of a class."""

from __future__ import annotations

from rowcast.consumer.verification.dialects.base import VerifyDialect
from rowcast.consumer.verification.dialects.mysql import MySQLVerify
from rowcast.consumer.verification.dialects.postgresql import PostgreSQLVerify
from rowcast.consumer.verification.dialects.sqlite import SQLiteVerify
from rowcast.shared.errors import ConfigurationError

__all__ = ["VerifyDialect", "verify_dialect"]

_DIALECTS: dict[str, type[VerifyDialect]] = {
    "postgresql": PostgreSQLVerify,
    "mysql": MySQLVerify,
    "mariadb": MySQLVerify,
    "sqlite": SQLiteVerify,
}


def verify_dialect(engine: str) -> VerifyDialect:
    """Return the dialect for SQLAlchemy's name of an engine. Raise ConfigurationError for another engine."""
    if engine not in _DIALECTS:
        raise ConfigurationError(
            f"verify cannot compare databases on the engine {engine!r}. Use {', '.join(_DIALECTS)}."
        )
    return _DIALECTS[engine]()
