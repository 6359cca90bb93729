"""The database's own clock: the one clock that all relays and writers of a primary share."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Dialect

_EXPRESSIONS = {
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "mysql": "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
}
_EXPRESSIONS["mariadb"] = _EXPRESSIONS["mysql"]


def now_ms(dialect: Dialect) -> ColumnElement[int]:
    """Milliseconds since 1970, at this moment rather than at the transaction's start."""
    return sa.literal_column(_EXPRESSIONS[dialect.name], sa.BigInteger)
