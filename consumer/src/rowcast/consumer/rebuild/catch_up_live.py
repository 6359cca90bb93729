"""Let the live tables of a replica reach an lsn."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Engine

from rowcast.consumer.rebuild.progress import RebuildStoppedError
from rowcast.consumer.replica.positions import read_positions, read_row
from rowcast.consumer.worker.live_assignment import live_assignment
from rowcast.consumer.worker.main_loop import run_assigned
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError

_log = logging.getLogger("rowcast.rebuild")

_POLL_S = 0.05
_LOG_S = 10.0


def applied_lsn(engine: Engine, source: str) -> int:
    """Return the lsn up to which consistent tables have every transaction, or 0 before the first."""
    with engine.connect() as connection:
        row = read_row(connection, source)
        positions = read_positions(connection, source)
    return max((0 if row is None else row.lsn, *(position.lsn for position in positions.values())))


def require_consistent(engine: Engine, source: str, replica: str) -> int:
    """Return the timeline of the live tables. Raise DataError if they are not in a state that the primary had."""
    with engine.connect() as connection:
        row = read_row(connection, source)
    if row is None or row.state != "consistent":
        state = "waiting" if row is None else row.state
        raise DataError(
            f"replica {replica!r} is {state}, so chosen tables cannot join the other tables at one lsn. Start a worker "
            f"and wait until the replica is consistent, or rebuild all tables: rowcast rebuild {replica}"
        )
    return row.timeline


def reach_lsn(settings: Settings, replica: str, engine: Engine, lsn: int, stop: threading.Event) -> None:
    """Wait until the replica's worker has applied everything up to an lsn. Work in its place if no worker is active.

    Raise the errors of the worker, and RebuildStoppedError.
    """
    if applied_lsn(engine, settings.source) >= lsn:
        return
    logged_at = time.monotonic()
    with _worker_on_a_thread(settings, replica) as is_running:
        while is_running() and applied_lsn(engine, settings.source) < lsn:
            if stop.wait(_POLL_S):
                raise RebuildStoppedError(replica)
            if time.monotonic() - logged_at > _LOG_S:
                logged_at = time.monotonic()
                _log.info("waiting until the worker of replica %r has reached lsn %d", replica, lsn)


@contextmanager
def _worker_on_a_thread(settings: Settings, replica: str) -> Iterator[Callable[[], bool]]:
    """Run a worker of the replica during the block. It stands by while another worker is active."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run_assigned(settings, replica, live_assignment(settings, replica, scheduled=False, paced=False), stop=stop)
        except BaseException as error:  # noqa: BLE001  # raised below, on the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work, name="rowcast-live-tables", daemon=True)
    thread.start()
    try:
        yield thread.is_alive
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]
