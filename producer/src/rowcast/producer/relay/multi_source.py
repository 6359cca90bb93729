"""Run the relays of several sources in one process, each in its own thread.

A relay waits until a transient error has passed, for example while a database or Kafka is down. A lasting error ends
the relay. The relay is then started again after a pause, as a supervisor would restart a process, and the remaining
relays continue.
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

from rowcast.producer.relay.main_loop import Relay
from rowcast.producer.relay.progress import OnProgress, RelayProgress
from rowcast.shared.backoff import Backoff
from rowcast.shared.cli import exit_codes
from rowcast.shared.cli.exit_codes import Failure
from rowcast.shared.cli.logs import name_source
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.vitals import Vitals

_log = logging.getLogger("rowcast.relay")

_RESET_BACKOFF_AFTER_S = 60.0
"""A relay that ran for this time before it failed begins with the shortest pause again."""

_WORST_FIRST = (exit_codes.BUG, exit_codes.WRONG_USE, exit_codes.UNREACHABLE)


def run_relays(
    files: Sequence[tuple[Path, Settings]],
    once: bool,
    stop: threading.Event,
    on_progress: Sequence[OnProgress],
    vitals: Sequence[Vitals] | None = None,
) -> int:
    """Run a relay for each source until ``stop`` is set, or until all outboxes are empty if ``once``.

    Returns the exit code: 0, or the code of the worst failure among the failed sources. Returns early if all sources
    have failed. Raises ConfigurationError if two files have the same source or the same database, and
    the errors of ``Relay``, before any relay is started.
    """
    require_distinct_sources(files)
    with ExitStack() as opened:
        sources: list[_Source] = []

        def on_failure() -> None:
            if all(source.failure is not None for source in sources):
                stop.set()

        pulses: Sequence[Vitals | None] = vitals or [None] * len(files)
        for (_, settings), moved, beat in zip(files, on_progress, pulses, strict=True):
            engine = open_engine(settings.require_primary().sqlalchemy_url, "primary")
            opened.callback(engine.dispose)
            sources.append(_Source(settings, engine, once, stop, moved, on_failure, beat))
        for source in sources:
            source.start()
        for source in sources:
            source.join()
    codes = [source.failure.exit_code for source in sources if source.failure is not None]
    return next((code for code in _WORST_FIRST if code in codes), max(codes, default=0))


def require_distinct_sources(files: Sequence[tuple[Path, Settings]]) -> None:
    """Raise ConfigurationError, naming both files, if two files have the same source or the same primary database."""
    for (one, ours), (other, theirs) in combinations(files, 2):
        if ours.source == theirs.source:
            raise ConfigurationError(
                f"{one} and {other} have the same source, {ours.source!r}, which names topics and log lines. "
                f"Give each file its own source{_hint_of_variable('ROWCAST_SOURCE')}."
            )
        if ours.require_primary().sqlalchemy_url == theirs.require_primary().sqlalchemy_url:
            raise ConfigurationError(
                f"{one} and {other} have the same primary database, {ours.require_primary().sqlalchemy_url}. It has "
                f"one outbox, so it is one source. Give only one of them{_hint_of_variable('ROWCAST_PRIMARY__URL')}."
            )


def _hint_of_variable(variable: str) -> str:
    return f". {variable} is set, and overrides the files" if variable in os.environ else ""


class _Source:
    """Run the relay of one source in a thread. ``failure``: its cause, or None while the relay runs."""

    def __init__(
        self, settings: Settings, engine: Engine, once: bool, stop: threading.Event, on_progress: OnProgress,
        on_failure: Callable[[], None], vitals: Vitals | None = None,
    ) -> None:  # fmt: skip
        self.failure: Failure | None = None
        self._name = settings.source
        self._once = once
        self._stop = stop
        self._on_progress = on_progress
        self._on_failure = on_failure
        self._relay = Relay(settings, engine, self._moved, wait_for_servers=not once, vitals=vitals)
        # A daemon thread, because a second signal must end the process at once.
        self._thread = threading.Thread(target=self._run, name=f"rowcast-relay-{settings.source}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        backoff, began = Backoff(first=1.0, longest=60.0), time.monotonic()
        with name_source(self._name):
            while not self._run_relay():
                self._on_failure()
                if time.monotonic() - began > _RESET_BACKOFF_AFTER_S:
                    backoff.reset()
                if self._once or self._stop.wait(backoff.next_pause()):
                    return
                began = time.monotonic()

    def _run_relay(self) -> bool:
        """Run the relay to its end. Return False, with ``failure`` set, after an error."""
        try:
            if self._once:
                self._relay.run_once(self._stop)
            else:
                self._relay.run(self._stop)
        except Exception as error:  # noqa: BLE001  # the other sources must continue after any error
            self.failure = exit_codes.to_failure(error) or Failure(
                "this is a bug in rowcast, please report it", exit_codes.BUG
            )
            bug = error if self.failure.exit_code == exit_codes.BUG else None
            _log.error(self.failure.message, exc_info=bug, extra={"exit_code": self.failure.exit_code})
            return False
        return True

    def _moved(self, progress: RelayProgress) -> None:
        # A relay that must stop during a retry publishes nothing more. Therefore its failure stays.
        if progress.state in ("leading", "standing by") and not self._stop.is_set():
            self.failure = None
        self._on_progress(progress)
