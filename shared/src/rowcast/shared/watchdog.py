"""Notice that a relay or a worker no longer moves, say where it is, and end the process if nothing else helps.

``silence`` cuts connections that a network has lost, and the work then continues. The watchdog is for everything else
that may hang: a client library, a lock, a file system, a server behind a pooler that hides its sessions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from rowcast.shared.config.relay_settings import WatchdogSettings
from rowcast.shared.database.sessions import SessionState
from rowcast.shared.database.silence import SilenceWatch, watched_connections
from rowcast.shared.process_end import STUCK
from rowcast.shared.stacks import cpu_seconds, format_stack
from rowcast.shared.vitals import Pulse, Vitals

_log = logging.getLogger("rowcast.watchdog")

_TICK_S = 1.0
# After a longer tick the whole process has stood still, and no loop is to blame.
_SUSPENDED_S = 5.0
# A loop usually goes round many times in this time.
_SLOW_S = 2.0
# The watchdog waits this long for a line of the log.
_LOG_S = 0.5
# A thread that has used this share of a tick computes.
_BUSY_SHARE = 0.05


@dataclass(slots=True)
class _Seen:
    """Remember what the watchdog has seen of a pulse."""

    cpu_s: float | None
    busy: bool = False
    logged_at_age: float = 0.0


class Watchdog:
    """Check the pulses of ``vitals``. ``end`` ends the process soon, and is None if the process is not rowcast's."""

    def __init__(
        self, vitals: Vitals, settings: WatchdogSettings, silence: SilenceWatch, end: Callable[[], None] | None
    ) -> None:
        self.vitals = vitals
        self._settings = settings
        self._silence = silence
        self._end = end
        self._seen: dict[str, _Seen] = {}

    def stuck_pulse(self) -> Pulse | None:
        """Return the pulse that has not beaten for ``stuck_after_s`` while nothing is known to work, or None."""
        for pulse in self.vitals.pulses():
            if pulse.age_s >= self._settings.stuck_after_s and self._reason_to_wait(pulse) is None:
                return pulse
        return None

    def is_waiting_for_work(self) -> bool:
        """Return whether a loop waits for a statement on which the database works, or computes for long."""
        return any(p.age_s > _SLOW_S and self._reason_to_wait(p) is not None for p in self.vitals.pulses())

    def tick(self) -> None:
        """Check all pulses."""
        pulses = self.vitals.pulses()
        self._seen = {p.name: self._seen.get(p.name) or _Seen(cpu_seconds(p.thread)) for p in pulses}
        for pulse in pulses:
            self._check(pulse, self._seen[pulse.name])

    def _check(self, pulse: Pulse, seen: _Seen) -> None:
        cpu_s = cpu_seconds(pulse.thread)
        seen.busy = None not in (cpu_s, seen.cpu_s) and cpu_s - seen.cpu_s > _BUSY_SHARE * _TICK_S  # type: ignore[operator]
        seen.cpu_s = cpu_s
        age = pulse.age_s
        limits = self._settings
        if age < limits.stuck_after_s:
            seen.logged_at_age = 0.0
            return
        reason = self._reason_to_wait(pulse)
        if reason is None and self._end is not None and age >= limits.exit_after_s:
            # First, because the log may hang too.
            self._end()
            self._end = None
            self._report(pulse, f"The process ends with exit code {STUCK}, so that its supervisor starts it again")
        elif age >= seen.logged_at_age + limits.stuck_after_s:
            seen.logged_at_age = age
            if reason is None and self._end is not None:
                reason = f"The process ends after {limits.exit_after_s:g} s (exit_after_s in [watchdog])"
            self._report(pulse, reason or "The application's process goes on")

    def _reason_to_wait(self, pulse: Pulse) -> str | None:
        """Return why the loop need not be stuck, or None if nothing is known to work for it."""
        seen = self._seen.get(pulse.name)
        if seen is not None and seen.busy:
            return "The thread computes, so it is left to go on"
        if self._silence.state_of(pulse.thread) is SessionState.WORKING:
            return "The database works on its statement, so it is left to go on"
        return None

    def _report(self, pulse: Pulse, consequence: str) -> None:
        # In a thread, because the stuck loop may hang in the log, and the watchdog must go on.
        thread = threading.Thread(target=self._log, args=(pulse, consequence), name="rowcast-watchdog-log", daemon=True)
        thread.start()
        thread.join(_LOG_S)

    def _log(self, pulse: Pulse, consequence: str) -> None:
        _log.warning(
            "%s has not moved for %.0f s (%s). %s. It is here:\n%s",
            self.vitals.name, pulse.age_s, pulse.name, consequence, format_stack(pulse.thread),
            extra={"stuck_s": pulse.age_s},
        )  # fmt: skip

    def forgive(self, seconds: float) -> None:
        """Leave the time out of every pulse's age."""
        for pulse in self.vitals.pulses():
            pulse.forgive(seconds)


@contextmanager
def watchdog(vitals: Vitals, settings: WatchdogSettings, end: Callable[[], None] | None = None) -> Iterator[Watchdog]:
    """Watch ``vitals`` and the process's database connections in threads until the block ends."""
    stop = threading.Event()
    with watched_connections() as silence:
        dog = Watchdog(vitals, settings, silence, end)
        threading.Thread(target=_run, args=(dog, stop), name="rowcast-watchdog", daemon=True).start()
        try:
            yield dog
        finally:
            stop.set()


@contextmanager
def watchdogs(
    watched: Iterable[tuple[Vitals, WatchdogSettings]], end: Callable[[], None] | None = None
) -> Iterator[list[Watchdog]]:
    """Run a watchdog for each of several relays. See ``watchdog``."""
    with ExitStack() as stack:
        yield [stack.enter_context(watchdog(vitals, settings, end)) for vitals, settings in watched]


def _run(dog: Watchdog, stop: threading.Event) -> None:
    last = time.monotonic()
    while not stop.wait(_TICK_S):
        now = time.monotonic()
        if now - last > _SUSPENDED_S:
            dog.forgive(now - last)
        last = now
        dog.tick()
