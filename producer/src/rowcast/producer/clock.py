"""The database's own clock: the one clock that all relays and writers of a primary share."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Dialect

_EXPRESSIONS = {
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    # UNIX_TIMESTAMP of a moment goes by the session's time zone, in which an hour in autumn comes twice.
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000",
}
_EXPRESSIONS["mariadb"] = _EXPRESSIONS["mysql"]


def now_ms(dialect: Dialect) -> ColumnElement[int]:
    """Milliseconds since 1970, at this moment, or at the statement's start, rather than at the transaction's."""
    return sa.literal_column(_EXPRESSIONS[dialect.name], sa.BigInteger)
