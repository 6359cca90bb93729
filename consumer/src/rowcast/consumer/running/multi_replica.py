"""Run the workers of several replicas in one process, with a thread for each worker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import partial

from rowcast.consumer.running.run_worker import run_worker
from rowcast.consumer.worker.progress import OnWorkerProgress, WorkerProgress
from rowcast.shared.cli.side_by_side import Work, run_side_by_side
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.vitals import Vitals

_log = logging.getLogger("rowcast.worker")


def run_workers(
    settings: Settings,
    replicas: Sequence[str],
    *,
    once: bool,
    stop: threading.Event,
    on_progress: Sequence[OnWorkerProgress],
    vitals: Sequence[Vitals],
) -> int:
    """Run a worker for each replica until ``stop`` is set, or to the present ends of the topics if ``once``.

    Each worker reads the topics by itself, because replicas are at different positions. A stopped replica does not stop
    the rest. Return the exit code: 0, or the code of the worst failure. Return early if all have failed. Raise
    ConfigurationError for a replica named twice or not configured.
    """
    if len(set(replicas)) < len(replicas):
        raise ConfigurationError(f"a replica is named twice: {', '.join(replicas)}. Name each once.")
    for name in replicas:
        settings.replica(name)
    workers = [
        _Worker(settings, name, once, stop, moved, beat)
        for name, moved, beat in zip(replicas, on_progress, vitals, strict=True)
    ]
    return run_side_by_side([worker.work for worker in workers], once=once, stop=stop, log=_log)


class _Worker:
    """The worker of one replica. ``work.failure`` is None again when the worker applies."""

    def __init__(
        self,
        settings: Settings,
        replica: str,
        once: bool,
        stop: threading.Event,
        on_progress: OnWorkerProgress,
        vitals: Vitals,
    ) -> None:
        self._stop = stop
        self._on_progress = on_progress
        self._apply = partial(
            run_worker, settings, replica, once=once, stop=stop, on_progress=self._moved, vitals=vitals
        )
        self.work = Work(self._run, {"replica": replica})

    def _run(self) -> None:
        self._apply()

    def _moved(self, progress: WorkerProgress) -> None:
        # A worker stopped during a retry applies nothing more. Therefore the failure stays.
        if progress.active and progress.state not in ("stopped", "suspect") and not self._stop.is_set():
            self.work.failure = None
        self._on_progress(progress)
