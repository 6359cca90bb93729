"""Notice that Kafka does not answer a leading relay, whose state is then ``waiting``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

_log = logging.getLogger("rowcast.relay")

_SILENT_S = 2.0


class Unanswered(NamedTuple):
    """What the relay has asked of Kafka, and how long ago."""

    action: str
    seconds: float


class SilentKafka:
    """Watch the questions of one leader to Kafka.

    ``servers``: the brokers, as the configuration names them. ``unanswered``: return the open question, or None.
    """

    def __init__(self, servers: object, unanswered: Callable[[], Unanswered | None]) -> None:
        self._servers = servers
        self._unanswered = unanswered
        self._was_silent = False

    def is_silent(self) -> bool:
        """Return whether Kafka has not answered for 2 s. Log the beginning and the end of the silence."""
        asked = self._unanswered()
        is_silent = asked is not None and asked.seconds > _SILENT_S
        if asked is not None and is_silent and not self._was_silent:
            _log.warning(
                "Kafka at %s has not answered for %.0f s: %s. The events stay in the outbox until Kafka answers",
                self._servers, asked.seconds, asked.action,
            )  # fmt: skip
        if self._was_silent and not is_silent:
            _log.info("Kafka at %s answers again", self._servers)
        self._was_silent = is_silent
        return is_silent
