"""Schedule the attempts to make a loaded replica consistent."""

from __future__ import annotations

import time

from rowcast.shared.backoff import Backoff


class ConsistencyAttempts:
    """Schedule the attempts, with a growing pause after each failure.

    Rows from before the capture may violate a constraint until the user has deleted or published them.
    """

    def __init__(self) -> None:
        self._next_at: float | None = None
        self._backoff = Backoff(1.0, 60.0, jitter=(1.0, 1.0))

    def request(self) -> None:
        """Make an attempt at once."""
        self._next_at = time.monotonic()

    def cancel(self) -> None:
        """Make no attempt until the next request."""
        self._next_at = None

    def is_due(self) -> bool:
        """Return whether an attempt is due."""
        return self._next_at is not None and time.monotonic() >= self._next_at

    def finish(self, is_consistent: bool) -> None:
        """Record the result of an attempt."""
        pause = self._backoff.next_pause()
        self._next_at = None if is_consistent else time.monotonic() + pause
