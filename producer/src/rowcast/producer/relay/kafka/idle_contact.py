"""Ask Kafka for the brokers from time to time, so that an idle relay notices the loss of Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future

from confluent_kafka import KafkaException

_EVERY_S = 10.0
_ATTEMPT_S = 1.0


class IdleContact:
    """Ask in a thread of ``executor``, one question at a time.

    ``ask``: ask Kafka, with a timeout in seconds. ``unanswered_since``: since when Kafka has not answered, by
    ``time.monotonic``, or None.
    """

    def __init__(self, executor: Executor, ask: Callable[[float], object]) -> None:
        self._executor = executor
        self._ask = ask
        self._asked: Future[None] | None = None
        self._answered_at = time.monotonic()
        self.unanswered_since: float | None = None

    def note_answer(self) -> None:
        """Note an answer of Kafka, to this or another question."""
        self._answered_at, self.unanswered_since = time.monotonic(), None

    def ask_if_due(self) -> None:
        """Ask if the last answer is ten seconds old, or again if Kafka has not answered the last question."""
        if self._asked is not None:
            if not self._asked.done():
                return
            self._asked.result()
        now = time.monotonic()
        if self.unanswered_since is None:
            if now - self._answered_at < _EVERY_S:
                return
            self.unanswered_since = now
        self._asked = self._executor.submit(self._ask_once)

    def _ask_once(self) -> None:
        try:
            self._ask(_ATTEMPT_S)
        except KafkaException:
            # ``unanswered_since`` stays, and the next call of ``ask_if_due`` asks again.
            return
        self.note_answer()
