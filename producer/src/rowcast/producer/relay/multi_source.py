"""Run the relays of several sources in one process, each in its own thread."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path

from sqlalchemy.engine import Engine

from rowcast.producer.relay.main_loop import Relay
from rowcast.producer.relay.progress import OnProgress, RelayProgress
from rowcast.shared.cli.side_by_side import Work, run_side_by_side
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.vitals import Vitals

_log = logging.getLogger("rowcast.relay")


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
        pulses: Sequence[Vitals | None] = vitals or [None] * len(files)
        for (_, settings), moved, beat in zip(files, on_progress, pulses, strict=True):
            engine = open_engine(settings.require_primary().sqlalchemy_url, "primary")
            opened.callback(engine.dispose)
            sources.append(_Source(settings, engine, once, stop, moved, beat))
        return run_side_by_side([source.work for source in sources], once=once, stop=stop, log=_log)


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
    """The relay of one source. ``work.failure`` is None again when the relay leads or stands by."""

    def __init__(
        self, settings: Settings, engine: Engine, once: bool, stop: threading.Event, on_progress: OnProgress,
        vitals: Vitals | None = None,
    ) -> None:  # fmt: skip
        self._once = once
        self._stop = stop
        self._on_progress = on_progress
        self._relay = Relay(settings, engine, self._moved, wait_for_servers=not once, vitals=vitals)
        self.work = Work(self._run, {"source": settings.source})

    def _run(self) -> None:
        if self._once:
            self._relay.run_once(self._stop)
        else:
            self._relay.run(self._stop)

    def _moved(self, progress: RelayProgress) -> None:
        # A relay that must stop during a retry publishes nothing more. Therefore its failure stays.
        if progress.state in ("leading", "standing by") and not self._stop.is_set():
            self.work.failure = None
        self._on_progress(progress)
