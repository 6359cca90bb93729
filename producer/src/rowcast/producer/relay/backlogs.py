"""What waits in the outbox, for ``rowcast status``."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.producer.clock import now_ms
from rowcast.producer.outbox import outbox_tables


@dataclass(frozen=True, slots=True)
class Backlog:
    """``rows`` in the outbox, claimed ones included; ``oldest_ms``: the age of the first, None if there is none.

    ``owner`` and ``epoch`` of the lease (None, 0: never led); ``expires_in_ms``: not above 0 where nobody leads.
    ``lsn``: the highest that is published and deleted; ``next_lsn``: the next to be given out. Times are by the
    database's clock.
    """

    rows: int
    oldest_ms: int | None
    owner: str | None
    epoch: int
    expires_in_ms: int
    lsn: int
    next_lsn: int


def backlog(engine: Engine, source: str) -> Backlog:
    """Reads the outbox and the lease. Raises the database's errors as they are."""
    tables = outbox_tables(sa.MetaData())
    outbox, lease = tables.outbox.c, tables.lease.c
    now = now_ms(engine.dialect)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(sa.func.count()).select_from(tables.outbox)).scalar_one()
        oldest = connection.execute(
            sa.select((now - outbox.ts_ms).label("age")).order_by(outbox.id).limit(1)
        ).scalar_one_or_none()
        held = connection.execute(
            sa.select(
                lease.owner, lease.epoch, (lease.expires_ms - now).label("left"), lease.published_lsn, lease.next_lsn
            ).where(lease.source == source)
        ).first()
    age = None if oldest is None else max(0, int(oldest))
    if held is None:
        return Backlog(rows, age, None, 0, 0, 0, 1)
    return Backlog(rows, age, held.owner, held.epoch, int(held.left), held.published_lsn, held.next_lsn)
