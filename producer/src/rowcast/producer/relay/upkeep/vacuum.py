"""Vacuum the outbox on PostgreSQL more often than autovacuum does.

PostgreSQL keeps deleted rows until a VACUUM. Autovacuum runs once a minute at most. In a minute a busy outbox grows by
tens of megabytes of deleted rows, and each read of the relay skips all of them.
"""

from __future__ import annotations

import logging
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor

from sqlalchemy import exc
from sqlalchemy.engine import Engine

from rowcast.producer.database.dialects import capture_dialect

_log = logging.getLogger("rowcast.relay")

_MIN_DELETED_EVENTS = 20_000
"""The relay runs no VACUUM for fewer deleted events."""

_PAUSE_S = 2.0
_PAUSE_FACTOR = 20
"""The pause is at least this many times as long as the last VACUUM took. With an old database snapshot open, a VACUUM
reads many deleted rows and cannot remove any."""


class Vacuum:
    """Run VACUUM in a thread, on a connection of the engine's pool. Do nothing on other databases than PostgreSQL."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dialect = capture_dialect(engine.dialect)
        self._thread = ThreadPoolExecutor(1, "rowcast-relay-vacuum") if self._dialect.needs_vacuum else None
        self._running: Future[None] | None = None
        self._next_at = 0.0
        self._last_lsn = 0

    def run_if_due(self, deleted_lsn: int) -> None:
        """Start a VACUUM if due. ``deleted_lsn``: the outbox rows up to here are deleted."""
        if self._thread is None or deleted_lsn - self._last_lsn < _MIN_DELETED_EVENTS:
            return
        if (self._running is None or self._running.done()) and time.monotonic() >= self._next_at:
            self._last_lsn = deleted_lsn
            self._running = self._thread.submit(self._vacuum)

    def _vacuum(self) -> None:
        began = time.monotonic()
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                if not self._dialect.vacuum_outbox(connection):
                    self._next_at = math.inf
                    return
        except exc.SQLAlchemyError as error:
            # Autovacuum will run later.
            _log.debug("VACUUM of the outbox: %s", error)
        took = time.monotonic() - began
        self._next_at = time.monotonic() + max(_PAUSE_S, _PAUSE_FACTOR * took)

    def close(self) -> None:
        """Wait until a running VACUUM has ended, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown()
