"""Run a worker for one replica, with the rebuilds that it asks for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from rowcast.consumer.worker.live_assignment import live_assignment
from rowcast.consumer.worker.main_loop import run_assigned
from rowcast.consumer.worker.progress import OnWorkerProgress, WorkerProgress
from rowcast.shared.config.settings import Settings
from rowcast.shared.vitals import Vitals


def run_worker(
    settings: Settings,
    replica: str,
    *,
    once: bool = False,
    stop: threading.Event | None = None,
    on_progress: OnWorkerProgress | None = None,
    vitals: Vitals | None = None,
    skip: Sequence[str] = (),
) -> WorkerProgress:
    """Apply the source's topics to a configured replica until ``stop`` is set. Finish the current batch then.

    ``once``: stop at the topics' ends at the time of the start. ``on_progress`` is called after each change.
    ``vitals``: where the worker's loops show that they go round, for a watchdog of the caller. ``skip``: the
    transactions to leave out, by id, and the messages to leave out, as ``topic:partition:offset``.

    Raise ConfigurationError. Raise UnreachableError at the start. Later, the worker waits for the server to come back.
    Raise DataError for an invalid event, or for an event refused by the replica. Everything before the event has been
    applied, and the position is before the event.
    """
    assignment, stop = live_assignment(settings, replica, scheduled=not once), stop or threading.Event()
    run = partial(
        run_assigned,
        settings, replica, assignment, once=once, stop=stop, on_progress=on_progress, vitals=vitals, skip=skip,
    )  # fmt: skip
    if settings.replica(replica).on_retype != "rebuild":
        return run()
    # Most workers need no part of a rebuild, and are to start soon.
    from rowcast.consumer.rebuild.retyped_tables import run_rebuilding

    return run_rebuilding(settings, replica, run, stop)
