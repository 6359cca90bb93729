"""The pause between two attempts of the same work, after a transient error."""

from __future__ import annotations

import random


class Backoff:
    """Give the seconds to wait before each attempt: from ``first``, doubled with each call, up to ``longest``.

    ``jitter``: the range of the random factor of each pause. Processes that failed together come back at different
    times because of it.
    """

    def __init__(self, first: float = 0.1, longest: float = 10.0, jitter: tuple[float, float] = (0.5, 1.0)) -> None:
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self._next = first

    def next_pause(self) -> float:
        """Return the seconds to wait now, and double the next pause."""
        pause = self._next * random.uniform(*self._jitter)  # spreads the attempts, so it need not be a secret
        self._next = min(self._next * 2, self._longest)
        return pause

    def reset(self) -> None:
        """Begin with the first pause again, after a success."""
        self._next = self._first
