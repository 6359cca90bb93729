"""Decide whether a worker still moves and keeps the claim."""

from __future__ import annotations

import time

from rowcast.shared.database.sessions import SessionState
from rowcast.shared.database.silence import SilenceWatch
from rowcast.shared.stacks import cpu_seconds
from rowcast.shared.vitals import Pulse, Vitals

_BUSY_SHARE = 0.05
_MAY_WORK = (SessionState.WORKING, SessionState.UNKNOWN)


class Movement:
    """Watch the pulses of a worker.

    ``pulse``: the pulse of the loop that applies. It may be old for ``lease_s``, and for longer while the database
    works on its statement or its thread computes. All other loops may take ``others_s``.
    """

    def __init__(self, vitals: Vitals, pulse: Pulse, silence: SilenceWatch, lease_s: float, others_s: float) -> None:
        self._vitals = vitals
        self._pulse = pulse
        self._silence = silence
        self._lease_s = lease_s
        self._others_s = others_s
        self._seen: tuple[float, float] | None = None

    def is_moving(self) -> bool:
        """Return False if another worker should take over. Call this about once a second."""
        busy = self._is_busy()
        if any(other.age_s > self._others_s for other in self._vitals.pulses() if other is not self._pulse):
            return False
        if self._pulse.age_s <= self._lease_s or busy:
            return True
        return self._silence.state_of(self._pulse.thread) in _MAY_WORK

    def _is_busy(self) -> bool:
        cpu_s, now = cpu_seconds(self._pulse.thread), time.monotonic()
        seen, self._seen = self._seen, None if cpu_s is None else (cpu_s, now)
        return seen is not None and cpu_s is not None and cpu_s - seen[0] > _BUSY_SHARE * (now - seen[1])
