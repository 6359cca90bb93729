"""Python's own settings while a worker, or a relay in a process of its own, runs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Allocations before the young objects are looked at. With Python's own 700 a fifth of the time of the worker's
# reader went into looking at events that a moment later are applied and gone, and that are in no cycle.
_ALLOCATIONS = 50_000

# How long a thread that computes keeps the interpreter from one that wants it. The worker's reader computes nearly all
# the time when there is much to do, and its applier comes back some ten times a statement, to send on and to see the
# answer: with Python's own 5 ms the database waited for a fifth of the time.
_SWITCH_S = 0.0005


@contextmanager
def tuned_interpreter() -> Iterator[None]:
    """Has the collector look less often and threads take turns more often, process-wide; afterwards as before."""
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    # 0 switches it off, which was somebody's decision.
    if 0 < thresholds[0] < _ALLOCATIONS:
        gc.set_threshold(_ALLOCATIONS, *thresholds[1:])
    sys.setswitchinterval(min(interval, _SWITCH_S))
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)
