"""Python's garbage collector while the worker runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Allocations before the young objects are looked at. With Python's own 700 a fifth of the reader's time went into
# looking at events that a moment later are applied and gone, and that are in no cycle.
_ALLOCATIONS = 50_000


@contextmanager
def rarer_collections() -> Iterator[None]:
    """Has the collector look less often, in the whole process; afterwards as often as before."""
    before = gc.get_threshold()
    # 0 switches it off, which was somebody's decision.
    if 0 < before[0] < _ALLOCATIONS:
        gc.set_threshold(_ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
