"""One process for several sources: a relay for each, in a thread of its own.

What passes (a database away, Kafka away) the relay of that source waits out. What does not ends it, as it would end a
process; then it is started again after a while, as a supervisor would start that process, and the others go on.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path

from sqlalchemy.engine import Engine

from rowcast.producer.relay.backoff import Backoff
from rowcast.producer.relay.process import Relay
from rowcast.producer.relay.progress import OnProgress, RelayProgress
from rowcast.shared import failures
from rowcast.shared.config import Settings
from rowcast.shared.databases import open_engine
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.failures import Failure
from rowcast.shared.logs import about_source

_log = logging.getLogger("rowcast.relay")

_AT_WORK_S = 60.0
"""A relay that failed after so long had been at work: the next failure is a new one."""

_WORST_FIRST = (failures.BUG, failures.WRONG_USE, failures.UNREACHABLE)


def run_relays(
    files: Sequence[tuple[Path, Settings]], once: bool, stop: threading.Event, on_progress: Sequence[OnProgress]
) -> int:
    """Runs a relay for each source until ``stop`` is set or, ``once``, until their outboxes are empty.

    Returns the exit code: 0, or that of the worst failure among the sources that are not at work in the end. When none
    is, it does not wait for ``stop``. Raises ConfigurationError if two files are of one source or one database,
    and what ``Relay`` raises, before any relay is at work.
    """
    must_be_apart(files)
    with ExitStack() as opened:
        sources: list[_Source] = []

        def on_failure() -> None:
            if all(source.failure is not None for source in sources):
                stop.set()

        for (_, settings), moved in zip(files, on_progress, strict=True):
            engine = open_engine(settings.require_primary().sqlalchemy_url, "primary")
            opened.callback(engine.dispose)
            sources.append(_Source(settings, engine, once, stop, moved, on_failure))
        for source in sources:
            source.start()
        for source in sources:
            source.join()
    codes = [source.failure.exit_code for source in sources if source.failure is not None]
    return next((code for code in _WORST_FIRST if code in codes), max(codes, default=0))


def must_be_apart(files: Sequence[tuple[Path, Settings]]) -> None:
    """Raises ConfigurationError, naming both files, if two are of one source or one primary database."""
    for (one, ours), (other, theirs) in combinations(files, 2):
        if ours.source == theirs.source:
            raise ConfigurationError(
                f"{one} and {other} are of the same source, {ours.source!r}: topics and log lines are told apart "
                f"by it. Give each a name of its own{_said_outside('ROWCAST_SOURCE')}."
            )
        if ours.require_primary().sqlalchemy_url == theirs.require_primary().sqlalchemy_url:
            raise ConfigurationError(
                f"{one} and {other} have the same primary database, {ours.require_primary().sqlalchemy_url}: it has "
                f"one outbox, which is one source. Name one of them{_said_outside('ROWCAST_PRIMARY__URL')}."
            )


def _said_outside(variable: str) -> str:
    return f"; {variable} is set, and goes before what the files say" if variable in os.environ else ""


class _Source:
    """A relay and its thread. ``failure``: why it is not at work; None again once it leads or stands by."""

    def __init__(
        self, settings: Settings, engine: Engine, once: bool, stop: threading.Event, on_progress: OnProgress,
        on_failure: Callable[[], None],
    ) -> None:  # fmt: skip
        self.failure: Failure | None = None
        self._name = settings.source
        self._once = once
        self._stop = stop
        self._on_progress = on_progress
        self._on_failure = on_failure
        self._relay = Relay(settings, engine, self._moved, patient=not once)
        # A daemon: a second signal ends the process at once.
        self._thread = threading.Thread(target=self._run, name=f"rowcast-relay-{settings.source}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        backoff, began = Backoff(first=1.0, longest=60.0), time.monotonic()
        with about_source(self._name):
            while not self._ends_in_order():
                self._on_failure()
                if time.monotonic() - began > _AT_WORK_S:
                    backoff.reset()
                if self._once or self._stop.wait(backoff.next()):
                    return
                began = time.monotonic()

    def _ends_in_order(self) -> bool:
        try:
            if self._once:
                self._relay.run_once(self._stop)
            else:
                self._relay.run(self._stop)
        except Exception as error:  # noqa: BLE001  # the other sources must go on, whatever it is
            self.failure = failures.known(error) or Failure("this is a bug in rowcast, please report it", failures.BUG)
            bug = error if self.failure.exit_code == failures.BUG else None
            _log.error(self.failure.message, exc_info=bug, extra={"exit_code": self.failure.exit_code})
            return False
        return True

    def _moved(self, progress: RelayProgress) -> None:
        if progress.state in ("leading", "standing by"):
            self.failure = None
        self._on_progress(progress)
