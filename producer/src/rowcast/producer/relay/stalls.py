"""Telling the log what waits in the outbox while nothing of it is published."""

from __future__ import annotations

import logging
import time

from sqlalchemy import exc
from sqlalchemy.engine import Engine

from rowcast.producer.relay.backlogs import backlog

_log = logging.getLogger("rowcast.relay")

_EVERY_S = 10.0


class Stalls:
    """One relay's, which tells it how far Kafka has committed."""

    def __init__(self, engine: Engine, source: str) -> None:
        self._engine = engine
        self._source = source
        self._lsn = 0
        self._told_at = time.monotonic()

    def at(self, lsn: int) -> None:
        """Kafka is known to have committed what goes up to this lsn."""
        if lsn != self._lsn:
            self._lsn, self._told_at = lsn, time.monotonic()

    def look(self) -> None:
        """To be called often. Every 10 s in which Kafka has committed nothing it tells what has waited so long."""
        if time.monotonic() - self._told_at < _EVERY_S:
            return
        now = self._told_at = time.monotonic()
        try:
            waiting = backlog(self._engine, self._source)
        except exc.SQLAlchemyError:
            # The relay tells of it, if it needs the database now.
            return
        oldest = (waiting.oldest_ms or 0) / 1000
        if oldest < _EVERY_S:
            self._told_at = now - oldest
            return
        _log.warning(
            "nothing is published: %d rows wait in the outbox, the first for %.1f s. The application goes on",
            waiting.rows, oldest, extra={"rows": waiting.rows, "oldest_s": oldest},
        )  # fmt: skip
