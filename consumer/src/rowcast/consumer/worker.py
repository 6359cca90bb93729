"""``rowcast worker``: Kafka to one replica.

stand by ──owns partition 0 of the transaction topic──▶ claim the replica ──▶ read and apply
   ▲                                                                            │
   └──────────────────── fenced, or the group has given the work to another ────┘
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from rowcast.consumer.changes import Partition
from rowcast.consumer.handover import Mark
from rowcast.consumer.lag import replica_status
from rowcast.consumer.layouts import Layouts
from rowcast.consumer.membership import Membership
from rowcast.consumer.positions import Position
from rowcast.consumer.progress import WorkerProgress
from rowcast.consumer.reader import Reader
from rowcast.consumer.replica import Replica
from rowcast.consumer.topics import partitions_of, read_shapes
from rowcast.consumer.transactions import Run
from rowcast.shared.config import Settings
from rowcast.shared.errors import FencedError, RetriableError, UnreachableError
from rowcast.shared.events import transaction_topic
from rowcast.shared.interpreter import tuned_interpreter
from rowcast.shared.kafka import new_admin, reach

_log = logging.getLogger("rowcast.worker")

_TAKE_S = 0.1
_STAND_BY_S = 0.2
_SILENT_S = 5.0
_BACKOFF_S = (0.1, 10.0)
_REPORT_S = 1.0
# Rows from before the capture keep a replica from being consistent; they may have been mended.
_CONSISTENT_AGAIN_S = (1.0, 60.0)

T = TypeVar("T")
OnProgress = Callable[[WorkerProgress], None]


def run_worker(
    settings: Settings,
    replica: str,
    *,
    once: bool = False,
    stop: threading.Event | None = None,
    on_progress: OnProgress | None = None,
) -> WorkerProgress:
    """Applies the source's topics to the configured replica until ``stop`` is set, after the batch in hand.

    With ``once``: to the topics' ends as they are at the start. Raises ConfigurationError, UnreachableError (only at
    the start; later on it waits for the server to come back) and DataError for a message that is no valid event, or one
    that the replica does not take: everything before it has been applied, and the position is before it.
    """
    with tuned_interpreter():
        return _Worker(settings, replica, once, stop or threading.Event(), on_progress).run()


class _Worker:
    def __init__(
        self, settings: Settings, name: str, once: bool, stop: threading.Event, on_progress: OnProgress | None
    ) -> None:
        self._settings = settings
        self._name = name
        self._options = settings.replica(name)
        self._once = once
        self._stop = stop
        self._on_progress = on_progress
        self._progress = WorkerProgress()
        self._layouts = Layouts(self._options.tables)
        self._reported: dict[Partition, Position] = {}
        self._report_at = 0.0
        reach(settings.require_kafka(), "worker")
        self._replica = Replica(settings.source, name, self._options, self._layouts)

    def run(self) -> WorkerProgress:
        backoff = _BACKOFF_S[0]
        try:
            while not self._stop.is_set():
                try:
                    if self._take_a_turn():
                        break
                    backoff = _BACKOFF_S[0]
                except FencedError as error:
                    _log.warning("%s; standing by", error)
                except RetriableError:
                    # Only when it was asked to stop while the replica was out of reach.
                    break
                except UnreachableError as error:
                    # It was reached at the start, and will be again.
                    if self._once:
                        raise
                    _log.warning("%s Beginning again in %.1f s", error, backoff)
                    self._stop.wait(backoff * random.uniform(0.5, 1.5))
                    backoff = min(backoff * 2, _BACKOFF_S[1])
        finally:
            self._replica.close()
        return self._progress

    def _take_a_turn(self) -> bool:
        """Stands by and works. True: done or stopped; False: the work is another worker's for now."""
        if not self._topics_are_there():
            return True
        membership = Membership(self._settings, self._name)
        try:
            return not self._stand_by(membership) or self._work(membership)
        finally:
            membership.close()
            self._tell(active=False)

    def _topics_are_there(self) -> bool:
        """Waits for the relay's first start. False: there is nothing to wait for, or for."""
        topic = transaction_topic(self._settings.source)
        admin = new_admin(self._settings.require_kafka(), "worker")
        told = False
        while not self._stop.is_set():
            if partitions_of(admin, [topic]):
                return True
            if self._once:
                _log.info("there is no topic %s yet: nothing to apply", topic)
                return False
            if not told:
                _log.info("there is no topic %s yet: waiting for the relay's first start", topic)
                told = True
            self._stop.wait(_STAND_BY_S)
        return False

    def _stand_by(self, membership: Membership) -> bool:
        """Waits until this worker may work. False: stopped, or with ``once`` the active one has done it all."""
        told = False
        since = time.monotonic()
        while not self._stop.is_set():
            if membership.active(_STAND_BY_S):
                return True
            if not told and time.monotonic() - since > _SILENT_S:
                _log.info("another worker of this replica is active, or the group is being formed: standing by")
                told = True
            if self._once and told:
                status = replica_status(self._settings, self._name)
                if status.state == "consistent" and status.records == 0:
                    _log.info("the active worker has applied everything")
                    return False
        return False

    def _work(self, membership: Membership) -> bool:
        """True: done or stopped; False: the work is another worker's."""
        state, positions = self._patiently(self._replica.claim)
        read_shapes(self._settings, self._layouts)
        self._patiently(self._replica.prepare)
        _log.info("active: %s, epoch %d, lsn %d", state.state, state.epoch, state.lsn)
        self._tell(active=True, state=state.state, lsn=state.lsn)
        reader = Reader(
            self._settings,
            self._layouts,
            positions,
            batch_events=self._options.batch_events,
            buffer_events=self._options.buffer_events,
            by_key=state.state == "loading",
            last_transaction=state.tx,
            once=self._once,
        )
        try:
            reader.start()
            return self._apply(reader, membership)
        finally:
            reader.close()
            self._replica.close()

    def _apply(self, reader: Reader, membership: Membership) -> bool:
        try_again_at: float | None = None
        again = _CONSISTENT_AGAIN_S[0]
        while not self._stop.is_set():
            if not membership.active():
                _log.info("the group has given the work to another worker: standing by")
                return False
            match reader.handover.take(self._options.batch_events, _TAKE_S):
                case Run() as run:
                    self._apply_run(run)
                case Mark.GAP:
                    self._patiently(self._replica.begin_loading)
                    self._tell(state="loading")
                    try_again_at = None
                case Mark.LOADED:
                    try_again_at = time.monotonic()
                case Mark.DONE:
                    self._report(membership, at_once=True)
                    return True
            if try_again_at is not None and time.monotonic() >= try_again_at:
                done = self._patiently(self._replica.become_consistent)
                try_again_at = None if done else time.monotonic() + again
                again = min(again * 2, _CONSISTENT_AGAIN_S[1])
                self._tell(state=self._replica.state)
            self._report(membership)
        self._report(membership, at_once=True)
        return True

    def _apply_run(self, run: Run) -> None:
        applied = self._patiently(lambda: self._replica.apply(run))
        self._reported |= run.reach()
        last = run.last
        if not last.lsn:
            return
        self._tell(
            events=self._progress.events + applied,
            transactions=self._progress.transactions + run.count,
            lsn=max(self._progress.lsn, last.lsn),
            behind_ms=max(0, int(time.time() * 1000) - last.ts_ms),
        )

    def _patiently(self, work: Callable[[], T]) -> T:
        """Does ``work`` again, ever less often, while the replica is out of reach. Raises RetriableError if stopped."""
        backoff = _BACKOFF_S[0]
        while True:
            try:
                return work()
            except RetriableError as error:
                wait = backoff * random.uniform(0.5, 1.5)
                _log.warning("%s; trying again in %.1f s", error, wait)
                if self._stop.wait(wait):
                    raise
                backoff = min(backoff * 2, _BACKOFF_S[1])

    def _report(self, membership: Membership, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._reported and (at_once or now >= self._report_at):
            membership.report(self._reported)
            self._reported = {}
            self._report_at = now + _REPORT_S

    def _tell(self, **changes: object) -> None:
        self._progress = replace(self._progress, **changes)  # type: ignore[arg-type]
        if self._on_progress is not None:
            self._on_progress(self._progress)
