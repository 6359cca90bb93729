"""Run several works of one kind in one process, each work in a thread: relays of sources, workers of replicas.

A work waits by itself until a transient error has passed. A lasting error ends the work. The work is started again
after a pause, as by a supervisor of processes, and the remaining works continue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from rowcast.shared.backoff import Backoff
from rowcast.shared.cli import exit_codes
from rowcast.shared.cli.exit_codes import Failure
from rowcast.shared.cli.logs import named

_RESET_BACKOFF_AFTER_S = 60.0
"""A work that ran for this time before it failed begins with the shortest pause again."""

_WORST_FIRST = (exit_codes.BUG, exit_codes.WRONG_USE, exit_codes.UNREACHABLE)


class Work:
    """Hold one of several works. ``failure``: why the work does not run at present, or None.

    ``run``: do the work until the common stop, or until done. ``names``: additions to the work's log lines, for example
    ``{"source": "shop"}``.
    """

    def __init__(self, run: Callable[[], None], names: Mapping[str, str]) -> None:
        self.run = run
        self.names = names
        self.failure: Failure | None = None


def run_side_by_side(works: Sequence[Work], *, once: bool, stop: threading.Event, log: logging.Logger) -> int:
    """Run all works until ``stop`` is set, or until all are done. ``once``: start no work again.

    Return the exit code: 0, or the code of the worst failure. Return early if all works have failed.
    """

    def on_failure() -> None:
        if all(work.failure is not None for work in works):
            stop.set()

    runs = [_Run(work, once, stop, log, on_failure) for work in works]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    codes = [work.failure.exit_code for work in works if work.failure is not None]
    return next((code for code in _WORST_FIRST if code in codes), max(codes, default=0))


class _Run(threading.Thread):
    """Run one work. A daemon thread, because a second signal must end the process at once."""

    def __init__(
        self, work: Work, once: bool, stop: threading.Event, log: logging.Logger, on_failure: Callable[[], None]
    ) -> None:
        super().__init__(name="-".join(("rowcast", *work.names.values())), daemon=True)
        self._work = work
        self._once = once
        self._stop_all = stop
        self._log = log
        self._on_failure = on_failure

    def run(self) -> None:
        """Run the work, and again after each failure."""
        backoff, began = Backoff(first=1.0, longest=60.0), time.monotonic()
        with named(self._work.names):
            while not self._succeeds():
                self._on_failure()
                if time.monotonic() - began > _RESET_BACKOFF_AFTER_S:
                    backoff.reset()
                if self._once or self._stop_all.wait(backoff.next_pause()):
                    return
                began = time.monotonic()

    def _succeeds(self) -> bool:
        """Run the work to its end. Return False, with ``failure`` set, after an error."""
        try:
            self._work.run()
        except Exception as error:  # noqa: BLE001  # the other works must continue after any error
            failure = exit_codes.to_failure(error) or Failure(
                "this is a bug in rowcast, please report it", exit_codes.BUG
            )
            bug = error if failure.exit_code == exit_codes.BUG else None
            self._log.error(failure.message, exc_info=bug, extra={"exit_code": failure.exit_code})
            self._work.failure = failure
            return False
        return True
