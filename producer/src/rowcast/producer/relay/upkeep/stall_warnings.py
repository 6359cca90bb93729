"""Warn when outbox rows wait and nothing is published."""

from __future__ import annotations

import logging
import time

from sqlalchemy import exc
from sqlalchemy.engine import Engine

from rowcast.producer.outbox.backlog import backlog

_log = logging.getLogger("rowcast.relay")

_WARN_EVERY_S = 10.0


class StallWarnings:
    """Warn about the backlog of one relay, every 10 s without a commit in Kafka."""

    def __init__(self, engine: Engine, source: str) -> None:
        self._engine = engine
        self._source = source
        self._lsn = 0
        self._quiet_since = time.monotonic()

    def note_committed(self, lsn: int) -> None:
        """Note the highest lsn that is known as committed in Kafka."""
        if lsn != self._lsn:
            self._lsn, self._quiet_since = lsn, time.monotonic()

    def warn_if_due(self) -> None:
        """Log a warning if outbox rows have waited for 10 s. The relay calls this often."""
        if time.monotonic() - self._quiet_since < _WARN_EVERY_S:
            return
        now = self._quiet_since = time.monotonic()
        try:
            waiting = backlog(self._engine, self._source)
        except exc.SQLAlchemyError:
            # The relay logs the error itself if it needs the database now.
            return
        oldest_s = (waiting.oldest_ms or 0) / 1000
        if oldest_s < _WARN_EVERY_S:
            self._quiet_since = now - oldest_s
            return
        _log.warning(
            "the relay publishes nothing: %d outbox rows wait, the oldest for %.1f s. The application can still commit",
            waiting.rows, oldest_s, extra={"rows": waiting.rows, "oldest_s": oldest_s},
        )  # fmt: skip
