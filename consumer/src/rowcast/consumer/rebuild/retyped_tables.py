"""Rebuild the tables that cannot follow a change of the source, and let the worker go on: ``on_retype = "rebuild"``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from glob import escape

from rowcast.consumer.rebuild.options import RebuildOptions
from rowcast.consumer.rebuild.progress import RebuildStoppedError
from rowcast.consumer.rebuild.rebuild import rebuild
from rowcast.consumer.replica.claim import Claim
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.dialects.naming import part_source
from rowcast.consumer.replica.evolution.shape_changes import TableRebuildError
from rowcast.consumer.worker.progress import WorkerProgress
from rowcast.shared.backoff import Backoff
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import FencedError, RetriableError, UnreachableError

_log = logging.getLogger("rowcast.worker")

_POLL_S = 0.5


def run_rebuilding(
    settings: Settings, replica: str, run: Callable[[], WorkerProgress], stop: threading.Event
) -> WorkerProgress:
    """Run a worker, and rebuild the tables that end the worker, until the worker ends for another reason.

    Of several workers, a single one rebuilds, and the others wait. Raise the errors of ``run`` and ``rebuild``.
    """
    settings.require_relay()
    settings.require_primary()
    backoff, rebuilt = Backoff(), ""
    while True:
        try:
            return run()
        except TableRebuildError as error:
            # A rebuild that does not help would be repeated without end.
            if stop.is_set() or str(error) == rebuilt:
                raise
            _log.warning("%s is rebuilt by a snapshot, because %s", ", ".join(sorted(error.tables)), error)
            try:
                if _rebuild_alone(settings, replica, error.tables, stop):
                    rebuilt = str(error)
            except RebuildStoppedError:
                return WorkerProgress()
            except (RetriableError, UnreachableError, FencedError) as failure:
                pause = backoff.next_pause()
                _log.warning("the rebuild goes on in %.1f s: %s", pause, failure)
                stop.wait(pause)


def _rebuild_alone(settings: Settings, replica: str, tables: Collection[str], stop: threading.Event) -> bool:
    """Rebuild the tables, or wait for another worker's rebuild. Return whether this worker rebuilt the tables."""
    options = settings.replica(replica)
    dialect, lease_s = replica_dialect(options.sqlalchemy_url.get_backend_name()), options.lease_ms / 1000
    label = f"replica {replica!r}"
    session = dialect.new_claim(options.sqlalchemy_url, label, f"{part_source(settings.source)}+retype", lease_s)
    claim = Claim(session, lease_s, lambda: True)
    try:
        if not claim.take():
            _log.info("another worker of %s rebuilds the tables", label)
            while not claim.take():
                if stop.wait(_POLL_S):
                    raise RebuildStoppedError(replica)
            return False
        _rebuild(settings, replica, tables, stop)
        return True
    finally:
        claim.release()


def _rebuild(settings: Settings, replica: str, tables: Collection[str], stop: threading.Event) -> None:
    names = tuple(map(escape, sorted(tables)))
    options = RebuildOptions(with_snapshot=True, tables=names, is_ahead=True, processes=1)
    try:
        rebuild(settings, replica, options, stop=stop)
    except TableRebuildError:
        # The source has changed a table once more.
        rebuild(settings, replica, replace(options, restart=True), stop=stop)
