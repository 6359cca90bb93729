"""The progress reported by a running worker."""

from __future__ import annotations

from dataclasses import dataclass

from rowcast.consumer.events.position import ReplicaState


@dataclass(frozen=True, slots=True)
class WorkerProgress:
    """The state of a worker and its replica. ``events`` and ``transactions`` are counts since the start of the worker.

    ``lsn``: the greatest lsn applied. ``behind_ms``: the age of the last applied transaction when it was applied, in
    milliseconds.
    """

    state: ReplicaState = "waiting"
    active: bool = False
    events: int = 0
    transactions: int = 0
    lsn: int = 0
    behind_ms: int = 0
