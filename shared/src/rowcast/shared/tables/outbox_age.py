"""Read how long the oldest commit has waited in the outbox of a primary."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Engine

_OUTBOX = sa.table("rowcast_outbox", sa.column("id"), sa.column("ts_ms"))
_OLDEST = sa.select(_OUTBOX.c.ts_ms).order_by(_OUTBOX.c.id).limit(1)


def oldest_in_outbox_ms(primary: Engine) -> int | None:
    """Return the age of the oldest commit in the outbox in milliseconds, at least 1, or 0 if the outbox is empty.

    Return None if the outbox cannot be read.
    """
    try:
        with primary.connect() as connection:
            ts_ms: int | None = connection.execute(_OLDEST).scalar()
    except exc.DBAPIError:
        return None
    return 0 if ts_ms is None else max(1, time.time_ns() // 1_000_000 - ts_ms)
