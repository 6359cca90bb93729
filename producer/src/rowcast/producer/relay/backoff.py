"""Waiting longer after each failure, each relay for another time, so that they do not all come back at once."""

from __future__ import annotations

import random


class Backoff:
    """Seconds to wait: doubling from ``first`` to ``longest``, with full jitter above half."""

    def __init__(self, first: float = 0.1, longest: float = 10.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next(self) -> float:
        """The time to wait now."""
        wait = self._next * random.uniform(0.5, 1.0)  # spreads retries; no secret
        self._next = min(self._next * 2, self._longest)
        return wait

    def reset(self) -> None:
        """After a success."""
        self._next = self._first
