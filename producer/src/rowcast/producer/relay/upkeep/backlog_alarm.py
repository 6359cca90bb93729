"""Warn when the outbox holds more rows, or older rows, than the settings allow."""

from __future__ import annotations

import logging
import time

from sqlalchemy import exc
from sqlalchemy.engine import Engine

from rowcast.producer.outbox.backlog import EXCESS_HINT, backlog, excess
from rowcast.shared.config.relay_settings import RelaySettings

_log = logging.getLogger("rowcast.relay")

_CHECK_EVERY_S = 30.0


class BacklogAlarm:
    """Watch the backlog of one relay. Log an error every 30 s while it exceeds ``alarm_rows`` or ``alarm_s``."""

    def __init__(self, engine: Engine, source: str, settings: RelaySettings) -> None:
        self._engine = engine
        self._source = source
        self._settings = settings
        self._checked_at = time.monotonic()
        self._raised = False

    def check_if_due(self) -> None:
        """Read the backlog if 30 s have passed. The relay calls this often."""
        if time.monotonic() - self._checked_at < _CHECK_EVERY_S:
            return
        self._checked_at = time.monotonic()
        try:
            waiting = backlog(self._engine, self._source, most_rows=self._settings.alarm_rows)
        except exc.SQLAlchemyError:
            # The relay logs the error itself if it needs the database now.
            return
        fault = excess(waiting, self._settings)
        if fault is not None:
            self._raised = True
            extra = {"rows": waiting.rows, "oldest_s": (waiting.oldest_ms or 0) / 1000}
            _log.error("%s. %s", fault, EXCESS_HINT.capitalize(), extra=extra)
        elif self._raised:
            self._raised = False
            _log.info("the outbox is below its limits again: %d rows", waiting.rows)
