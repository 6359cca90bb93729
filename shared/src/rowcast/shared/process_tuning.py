"""Tune the interpreter for a process with only a worker or a relay, and for the start of a process."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Allocations between two garbage collections of young objects. With Python's default of 700, the worker's reader spent
# a fifth of the time in collections. Events never form cycles, and live only until a worker has applied them.
_ALLOCATIONS = 50_000

# Seconds for which a busy thread keeps the interpreter from a waiting thread. Under load, the worker's reader is always
# busy, and its applier needs the interpreter about ten times for each statement. With Python's default of 5 ms, the
# database was idle for a fifth of the time.
_SWITCH_S = 0.0005


class _Tuning:
    """The settings from before the first of the blocks that are open. The workers of one process end in any order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open_blocks = 0
        self._thresholds = gc.get_threshold()
        self._interval = sys.getswitchinterval()

    def begin(self) -> None:
        """Tune the process if no other block has."""
        with self._lock:
            self._open_blocks += 1
            if self._open_blocks > 1:
                return
            self._thresholds, self._interval = gc.get_threshold(), sys.getswitchinterval()
            # 0 means that the application has switched the collector off on purpose.
            if 0 < self._thresholds[0] < _ALLOCATIONS:
                gc.set_threshold(_ALLOCATIONS, *self._thresholds[1:])
            sys.setswitchinterval(min(self._interval, _SWITCH_S))

    def end(self) -> None:
        """Restore the settings with the end of the last block."""
        with self._lock:
            self._open_blocks -= 1
            if not self._open_blocks:
                gc.set_threshold(*self._thresholds)
                sys.setswitchinterval(self._interval)


_tuning = _Tuning()


@contextmanager
def tune_interpreter() -> Iterator[None]:
    """Collect garbage less often and switch threads more often, for this process, until the last such block ends."""
    _tuning.begin()
    try:
        yield
    finally:
        _tuning.end()


@contextmanager
def pause_collector() -> Iterator[None]:
    """Collect no garbage until the block ends, because the objects of imported modules stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
