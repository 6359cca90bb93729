"""PostgreSQL keeps deleted rows until a VACUUM. Its own looks once a minute, in which a busy outbox grows by tens of
megabytes that every look of the relay walks past; so the relay asks for it more often."""

from __future__ import annotations

import logging
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor

from sqlalchemy import exc
from sqlalchemy.engine import Engine

_log = logging.getLogger("rowcast.relay")

_EVENTS = 20_000
"""Fewer that were deleted are not worth it."""

_PAUSE_S = 2.0
_SHARE = 20
"""It pauses at least so many times as long as the last took: rows that an old snapshot holds are looked at in vain."""

_LONGEST = "10s"
# The server would log a warning each time that somebody else asks.
_MAY = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = 'rowcast_outbox'::regclass"
# Without TRUNCATE, which locks the table.
_VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE FALSE) rowcast_outbox, rowcast_claim, rowcast_lease"


class Vacuuming:
    """In a thread of its own, with a connection of its own. Does nothing for other databases."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, "rowcast-relay-vacuum") if engine.dialect.name == "postgresql" else None
        self._running: Future[None] | None = None
        self._next_at = 0.0
        self._last_lsn = 0

    def look(self, published_lsn: int) -> None:
        """Begins one if it is time. Everything up to this lsn is deleted."""
        if self._thread is None or published_lsn - self._last_lsn < _EVENTS:
            return
        if (self._running is None or self._running.done()) and time.monotonic() >= self._next_at:
            self._last_lsn = published_lsn
            self._running = self._thread.submit(self._vacuum)

    def _vacuum(self) -> None:
        began = time.monotonic()
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                if not connection.exec_driver_sql(_MAY).scalar():
                    self._next_at = math.inf
                    return
                # Of this one statement: the connection goes back to a pool.
                connection.exec_driver_sql(f"SET statement_timeout = '{_LONGEST}'")
                try:
                    connection.exec_driver_sql(_VACUUM)
                finally:
                    connection.exec_driver_sql("RESET statement_timeout")
        except exc.SQLAlchemyError as error:
            # It will come by itself, only later.
            _log.debug("VACUUM of the outbox: %s", error)
        took = time.monotonic() - began
        self._next_at = time.monotonic() + max(_PAUSE_S, _SHARE * took)

    def close(self) -> None:
        """Waits for the one that is under way."""
        if self._thread is not None:
            self._thread.shutdown()
