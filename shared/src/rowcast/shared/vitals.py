"""Know whether the loops of a relay or a worker still go round."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Pulse:
    """Record when one loop last went round. ``thread``: the thread that runs the loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.beat()

    def beat(self) -> None:
        """Record that the loop goes round now, in the calling thread."""
        self.thread = threading.get_ident()
        self._at = time.monotonic()

    def forgive(self, seconds: float) -> None:
        """Leave the time out of the pulse's age, because the whole process was suspended."""
        self._at += seconds

    @property
    def age_s(self) -> float:
        """Return the seconds since the last beat."""
        return time.monotonic() - self._at


class Vitals:
    """Hold the pulses of one relay or worker, and the time of its last progress. Any thread may read it.

    ``name`` names the relay or worker in messages, ``labels`` in metrics. ``progress_at``: Unix time of the last step
    that the work took, or that found nothing to do while everything was connected. 0 before the first step.
    """

    def __init__(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.labels = dict(labels or {})
        self.progress_at = 0.0
        self._pulses: dict[str, Pulse] = {}

    @contextmanager
    def pulse(self, name: str) -> Iterator[Pulse]:
        """Yield a pulse until the block ends. The loop must beat the pulse."""
        self._pulses[name] = pulse = Pulse(name)
        try:
            yield pulse
        finally:
            self._pulses.pop(name, None)

    def note_progress(self) -> None:
        """Record a step of the work."""
        self.progress_at = time.time()

    def pulses(self) -> list[Pulse]:
        """Return the pulses that count now."""
        return list(self._pulses.values())
