"""Measure the backlog of the outbox for ``rowcast status``."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.shared.config.relay_settings import RelaySettings

# The texts of a large backlog would be gigabytes to read.
_MEASURED_ROWS = 5_000

EXCESS_HINT = "see whether a relay leads and publishes, because the outbox grows until it does"


@dataclass(frozen=True, slots=True)
class Backlog:
    """Describe the backlog and the lease of one source. Times are by the database's clock.

    ``rows`` counts the outbox rows, including claimed rows. ``oldest_ms`` is the age of the first row, or None without
    rows. ``owner`` and ``epoch`` belong to the lease (None and 0 before the first leader). ``expires_in_ms`` is at most
    0 without a leader. ``lsn`` is the highest lsn published and deleted, ``next_lsn`` the next lsn to be claimed.
    """

    rows: int
    oldest_ms: int | None
    owner: str | None
    epoch: int
    expires_in_ms: int
    lsn: int
    next_lsn: int


def outbox_bytes(connection: Connection, rows: int) -> int:
    """Return about the length of the changes in the outbox, in bytes, from the mean of the oldest rows.

    ``rows``: the number of rows in the outbox. A few thousand rows are read whole, so the length is exact.
    """
    changes = outbox_tables(sa.MetaData()).outbox.c
    length = capture_dialect(connection.dialect).byte_length(changes.changes)
    read = sa.select(length.label("length")).order_by(changes.id).limit(_MEASURED_ROWS).subquery()
    measured, total = connection.execute(sa.select(sa.func.count(), sa.func.sum(read.c.length)).select_from(read)).one()
    return int(total) * max(rows, measured) // measured if measured else 0


def excess(waiting: Backlog, settings: RelaySettings) -> str | None:
    """Return an alarm if the backlog exceeds ``alarm_rows`` or ``alarm_s``, or None."""
    age_s = (waiting.oldest_ms or 0) / 1000
    if waiting.rows > settings.alarm_rows:
        return f"the outbox holds more than {settings.alarm_rows:,} rows (alarm_rows)"
    if age_s > settings.alarm_s:
        return f"the oldest outbox row is {age_s:,.0f} s old, more than {settings.alarm_s:,} s (alarm_s)"
    return None


def backlog(engine: Engine, source: str, *, most_rows: int | None = None) -> Backlog:
    """Return the backlog of a source. Raises SQLAlchemy's errors.

    ``most_rows``: count up to one row more, because a full count takes long.
    """
    tables = outbox_tables(sa.MetaData())
    outbox, lease = tables.outbox.c, tables.lease.c
    now = capture_dialect(engine.dialect).now_ms()
    with engine.connect() as connection:
        counted = sa.select(outbox.id).limit(None if most_rows is None else most_rows + 1).subquery()
        rows = connection.execute(sa.select(sa.func.count()).select_from(counted)).scalar_one()
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
