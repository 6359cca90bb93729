"""The progress reported by a running worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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


OnWorkerProgress = Callable[[WorkerProgress], None]


class ProgressReport:
    """Hold the present progress, and report each change. ``on_progress`` is called with the changed progress."""

    def __init__(self, on_progress: OnWorkerProgress | None) -> None:
        self._on_progress = on_progress
        self.progress = WorkerProgress()

    def change(self, **changes: object) -> None:
        """Replace fields of the progress."""
        self.progress = replace(self.progress, **changes)  # type: ignore[arg-type]
        if self._on_progress is not None:
            self._on_progress(self.progress)
