"""Read the parked transactions in ``rowcast_parked``."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.outbox.schema import outbox_tables


@dataclass(frozen=True, slots=True)
class ParkedTransaction:
    """Describe a parked transaction: id, number of outbox ``rows``, and the reason for parking.

    ``ts_ms`` is the time of the commit and ``parked_ms`` the time of parking, in milliseconds since 1970 by the
    database's clock.
    """

    tx: str
    rows: int
    ts_ms: int
    parked_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """Hold an outbox row of a parked transaction, unchanged."""

    id: int
    changes: str
    context: str | None


def parked_transactions(connection: Connection) -> list[ParkedTransaction]:
    """Return all parked transactions, oldest first."""
    row = outbox_tables(sa.MetaData()).parked.c
    columns = row.tx, sa.func.count(), sa.func.min(row.ts_ms), sa.func.max(row.parked_ms), sa.func.min(row.reason)
    found = connection.execute(sa.select(*columns).group_by(row.tx).order_by(sa.func.min(row.parked_ms), row.tx))
    return [ParkedTransaction(*transaction) for transaction in found]
