"""What a worker tells about itself while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from rowcast.consumer.positions import State


@dataclass(frozen=True, slots=True)
class WorkerProgress:
    """Counted since this worker began. ``behind_ms``: the age of the last applied transaction when it was applied."""

    state: State = "loading"
    active: bool = False
    events: int = 0
    transactions: int = 0
    lsn: int = 0
    behind_ms: int = 0
