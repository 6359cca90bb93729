"""Show the standby relays: each has a row in ``rowcast_relay``. The row expires unless renewed."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.schema import OutboxTables
from rowcast.shared.database.driver_messages import first_line

_log = logging.getLogger("rowcast.relay")

_RENEWALS_PER_LEASE = 3


class StandbyRow:
    """The row of one relay. ``writer``: a connection of the relay without an open transaction.

    Only ``rowcast status`` reads the row. Therefore a failed write of the row is logged, and the relay goes on.
    """

    def __init__(self, writer: Connection, tables: OutboxTables, source: str, owner: str, lease_ms: int) -> None:
        self._writer = writer
        self._table = tables.relay
        self._source = source
        self._owner = owner
        self._lease_ms = lease_ms
        self._now = capture_dialect(writer.dialect).now_ms()
        self._due = 0.0
        self._is_written = False
        self._failure: str | None = None

    def renew_if_due(self) -> None:
        """Write the row, three times in the length of a lease."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._lease_ms / 1000 / _RENEWALS_PER_LEASE
        try:
            with self._writer.begin():
                self._write()
            self._is_written = True
        except exc.DBAPIError as error:
            if error.connection_invalidated:
                raise
            if self._failure is None:
                self._failure = first_line(error)
                _log.warning("rowcast status cannot show this standby: %s", self._failure)

    def _write(self) -> None:
        row, values = self._table.c, {"expires_ms": self._now + self._lease_ms}
        updated = self._writer.execute(sa.update(self._table).where(self._is_own).values(**values))
        if updated.rowcount == 0:
            # Rows of relays that were killed.
            self._writer.execute(sa.delete(self._table).where(row.source == self._source, row.expires_ms <= self._now))
            new = {"source": self._source, "owner": self._owner, **values}
            self._writer.execute(sa.insert(self._table).values(**new))

    def remove(self) -> None:
        """Delete the row, because the relay leads or ends. Without a connection the row ends by itself."""
        if self._is_written:
            with suppress(exc.SQLAlchemyError), self._writer.begin():
                self._writer.execute(sa.delete(self._table).where(self._is_own))

    @property
    def _is_own(self) -> sa.ColumnElement[bool]:
        row = self._table.c
        return sa.and_(row.source == self._source, row.owner == self._owner)


def standbys(connection: Connection, tables: OutboxTables, source: str, leader: str | None) -> list[str]:
    """Return the standby relays, by name. Outbox tables of an earlier version show none."""
    if not sa.inspect(connection).has_table(tables.relay.name):
        return []
    row = tables.relay.c
    alive = row.expires_ms > capture_dialect(connection.dialect).now_ms()
    found = connection.execute(sa.select(row.owner).where(row.source == source, alive).order_by(row.owner)).scalars()
    return [owner for owner in found if owner != leader]
