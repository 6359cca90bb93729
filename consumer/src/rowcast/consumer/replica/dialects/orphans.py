"""Find rows that refer to a missing row, where no constraint of the engine has looked."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

_log = logging.getLogger("rowcast.worker")


def count_orphans(
    connection: Connection, table: str, columns: Sequence[str], parent: str, parent_columns: Sequence[str]
) -> int:
    """Return how many rows of a table lack their parent. The tables are in the default schema."""
    child = sa.table(table, *map(sa.column, columns)).alias("child")
    referred = sa.table(parent, *map(sa.column, parent_columns)).alias("parent")
    pairs = list(zip(child.c, referred.c, strict=True))
    orphans = (
        sa.select(sa.func.count())
        .select_from(child.outerjoin(referred, sa.and_(*(c == p for c, p in pairs))))
        .where(*(c.is_not(None) for c in child.c), next(iter(referred.c)).is_(None))
    )
    return int(connection.execute(orphans).scalar_one())


def log_orphans(table: str, count: int, parent: str) -> None:
    """Warn of rows that keep a replica from being consistent."""
    _log.warning(
        "table %s: %d rows refer to rows of %s that are missing, so the replica is loading. "
        "Look for rows from before the capture, which are not in the topics, and for texts that only the primary's "
        "collation takes for the same.", table, count, parent,
    )  # fmt: skip
