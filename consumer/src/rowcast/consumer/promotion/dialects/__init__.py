"""The SQL of a promotion on each engine."""

from __future__ import annotations

from rowcast.consumer.promotion.dialects.base import PromotionDialect
from rowcast.consumer.promotion.dialects.mysql import MySQLPromotion
from rowcast.consumer.promotion.dialects.postgresql import PostgreSQLPromotion
from rowcast.consumer.promotion.dialects.sqlite import SQLitePromotion
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.type_mapping import engine_family

__all__ = ["PromotionDialect", "promotion_dialect"]

_DIALECTS: dict[str, type[PromotionDialect]] = {
    "postgresql": PostgreSQLPromotion,
    "mysql": MySQLPromotion,
    "sqlite": SQLitePromotion,
}


def promotion_dialect(engine: str) -> PromotionDialect:
    """Return the dialect for SQLAlchemy's name of an engine. Raise ConfigurationError for an unknown engine."""
    if (dialect := _DIALECTS.get(engine_family(engine))) is None:
        raise ConfigurationError(
            f"a replica on the engine {engine!r} cannot be promoted: rowcast promotes {', '.join(sorted(_DIALECTS))}. "
            "Make its tables those of a primary by hand."
        )
    return dialect()
