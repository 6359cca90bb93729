"""Wait and try again, until the worker is stopped. A waiting worker keeps its pulse."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from rowcast.shared.backoff import Backoff
from rowcast.shared.errors import RetriableError
from rowcast.shared.vitals import Pulse, Vitals

_log = logging.getLogger("rowcast.worker")

JITTER = (0.5, 1.5)

T = TypeVar("T")


class Patience:
    """Hold the stop of a worker and the pulse of its main loop."""

    def __init__(self, stop: threading.Event, vitals: Vitals, pulse: Pulse) -> None:
        self._stop = stop
        self._vitals = vitals
        self._pulse = pulse

    @property
    def is_stopped(self) -> bool:
        """Whether the worker is to end."""
        return self._stop.is_set()

    def beat(self) -> None:
        """Record that the main loop goes round."""
        self._pulse.beat()

    def go_round(self) -> None:
        """Record that the main loop goes round, and that the worker has done a step or has nothing to do."""
        self._pulse.beat()
        self._vitals.note_progress()

    def pause(self, seconds: float) -> bool:
        """Wait, and return whether the worker was stopped meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._stop.wait(min(left, 1.0)):
            self._pulse.beat()
        return self._stop.is_set()

    def retry(self, work: Callable[[], T]) -> T:
        """Repeat ``work`` with a growing pause while the replica is unreachable. Raise RetriableError if stopped."""
        backoff = Backoff(jitter=JITTER)
        while True:
            self._pulse.beat()
            try:
                return work()
            except RetriableError as error:
                if self.is_stopped:
                    raise
                pause = backoff.next_pause()
                _log.warning("%s. Trying again in %.1f s", str(error).removesuffix("."), pause)
                if self.pause(pause):
                    raise
