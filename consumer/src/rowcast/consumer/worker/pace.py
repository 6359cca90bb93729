"""The pace of a worker: no transaction younger than the lag, and no more events in a second than the limit."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """The limits of a worker. ``lag_s``: the age of a commit at least. ``max_rate``: events in a second, or None."""

    lag_s: float = 0.0
    max_rate: int | None = None

    def batch_events(self, wanted: int) -> int:
        """Return the events of a batch, at most those of a second."""
        return wanted if self.max_rate is None else min(wanted, self.max_rate)

    def until_ms(self) -> float:
        """Return the time of the youngest commit to apply now, in milliseconds since 1970."""
        return time.time() * 1_000 - self.lag_s * 1_000 if self.lag_s else math.inf

    def rest_s(self, events: int) -> float:
        """Return how long a worker rests after it has applied events, in seconds."""
        return 0.0 if self.max_rate is None else events / self.max_rate
