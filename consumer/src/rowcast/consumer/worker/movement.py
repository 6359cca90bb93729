"""Decide whether a worker still moves and keeps the claim, and how long it may stand still."""

from __future__ import annotations

import time

from rowcast.shared.database.sessions import SessionState
from rowcast.shared.database.silence import SilenceWatch
from rowcast.shared.stacks import cpu_seconds
from rowcast.shared.vitals import Pulse, Vitals

_BUSY_SHARE = 0.05
# A look at a session takes 5 s at most, and another thread's may come first.
_LATE_LOOK_S = 10.0
_MAY_WORK = (SessionState.WORKING, SessionState.UNKNOWN)


class Movement:
    """Watch the pulses of a worker.

    ``pulse``: the pulse of the apply loop. The pulse may be old for ``lease_s``, and for longer while the database
    works on a statement or the thread computes. All other loops may take ``others_s``.
    """

    def __init__(self, vitals: Vitals, pulse: Pulse, silence: SilenceWatch, lease_s: float, others_s: float) -> None:
        self._vitals = vitals
        self._pulse = pulse
        self._silence = silence
        self._lease_s = lease_s
        self._others_s = others_s
        self._seen: tuple[float, float] | None = None
        self.gave_up = False

    def is_moving(self) -> bool:
        """Return False if another worker should take over. Call this about once a second."""
        self.gave_up = not self._moves()
        return not self.gave_up

    def _moves(self) -> bool:
        busy = self._is_busy()
        if any(other.age_s > self._others_s for other in self._vitals.pulses() if other is not self._pulse):
            return False
        if self._pulse.age_s <= self._lease_s or busy:
            return True
        thread, age_s = self._pulse.thread, self._pulse.age_s
        state = self._silence.state_of(thread)
        if state is None and age_s <= self._lease_s + _LATE_LOOK_S:
            return self._silence.is_undecided(thread, time.monotonic() - age_s)
        return state in _MAY_WORK

    def _is_busy(self) -> bool:
        cpu_s, now = cpu_seconds(self._pulse.thread), time.monotonic()
        seen, self._seen = self._seen, None if cpu_s is None else (cpu_s, now)
        return seen is not None and cpu_s is not None and cpu_s - seen[0] > _BUSY_SHARE * (now - seen[1])


class StandstillLimit:
    """How long a worker may stand still in its next turn: ``lease_s``, and twice as long after each fruitless turn.

    Otherwise, workers on an overloaded machine would take a replica over from each other without end, before any worker
    has applied a batch. ``most_s``: the longest limit.
    """

    def __init__(self, lease_s: float, most_s: float) -> None:
        self._lease_s = lease_s
        self._most_s = max(lease_s, most_s)
        self._fruitless = 0

    @property
    def seconds(self) -> float:
        """Return the limit."""
        return min(self._most_s, self._lease_s * 2.0**self._fruitless)

    def note_turn(self, *, gave_up: bool, applied: bool) -> None:
        """Record how a turn ended. ``gave_up``: the worker lost the claim because it did not move."""
        if applied:
            self._fruitless = 0
        elif gave_up:
            self._fruitless += 1
