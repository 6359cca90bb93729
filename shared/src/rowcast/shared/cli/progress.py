"""Show the progress of long work: a live line on a terminal, else a log line from time to time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Annotated, TypeVar

import typer

from rowcast.shared.cli import logs

State = TypeVar("State")

_REDRAWS_PER_S = 10

IntervalOption = Annotated[
    float,
    typer.Option(
        "--progress-interval",
        envvar="ROWCAST_PROGRESS_INTERVAL",
        metavar="SECONDS",
        min=0.05,
        help="Without a terminal, log progress this often if it has changed.",
    ),
]
DEFAULT_INTERVAL_S = 10.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Hold the figures to show. ``values``: by name, in order. A progress bar needs ``done`` and ``total``."""

    values: Mapping[str, object] = field(default_factory=dict)
    done: int | None = None
    total: int | None = None

    def text(self) -> str:
        """Return the figures as text, for example ``events 1,234 · lsn 99``."""
        shown = ((k.replace("_", " "), v) for k, v in self.values.items())
        return " · ".join(f"{k} {v:,}" if isinstance(v, int) else f"{k} {v}" for k, v in shown)


def figures_of(state: object) -> Figures:
    """Return the numbers and texts of a dataclass as figures."""
    values = {f.name: getattr(state, f.name) for f in fields(state)}  # type: ignore[arg-type]  # any dataclass
    return Figures({name: v for name, v in values.items() if isinstance(v, int | float | str)})


@contextmanager
def progress(
    what: str,
    figures: Callable[[State], Figures],
    *,
    log: logging.Logger,
    log_format: logs.LogFormat,
    interval: float = DEFAULT_INTERVAL_S,
) -> Iterator[Callable[[State], None]]:
    """Yield the function to call with each new state. A call is cheap.

    ``what``: the first word of the line (``published``, ``comparing``).
    """
    with progress_of_each(what, figures, 1, log=log, log_format=log_format, interval=interval) as (moved,):
        yield moved


@contextmanager
def progress_of_each(
    what: str,
    figures: Callable[[State], Figures],
    count: int,
    *,
    log: logging.Logger,
    log_format: logs.LogFormat,
    interval: float = DEFAULT_INTERVAL_S,
) -> Iterator[Sequence[Callable[[State], None]]]:
    """Yield a function for each of ``count`` works of one kind. Each has a line of its own. See ``progress``."""
    latest: dict[int, State] = {}

    def now(n: int) -> Figures:
        return figures(latest[n]) if n in latest else Figures()

    nows = [partial(now, n) for n in range(count)]
    with ExitStack() as shown:
        if on_terminal(log_format):
            shown.enter_context(_moving_lines(what, nows))
        else:
            for each in nows:
                shown.enter_context(_log_lines(what, each, log, interval))
        yield [partial(latest.__setitem__, n) for n in range(count)]


def on_terminal(log_format: logs.LogFormat) -> bool:
    """Return whether standard error is a terminal and log lines are text."""
    return logs.stderr.is_terminal and log_format is logs.LogFormat.text


@contextmanager
def _moving_lines(what: str, nows: Sequence[Callable[[], Figures]]) -> Iterator[None]:
    # A service has no terminal, and starts sooner without these modules.
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.spinner import Spinner
    from rich.table import Table
    from rich.text import Text

    spinner = Spinner("dots")

    def lines() -> Table:
        grid = Table.grid(padding=(0, 1))
        for now in nows:
            at = now()
            bar = [ProgressBar(total=at.total, completed=at.done or 0, width=30)] if at.total is not None else []
            grid.add_row(spinner, Text(what, "bold"), *bar, at.text())
        return grid

    with Live(get_renderable=lines, console=logs.stderr, refresh_per_second=_REDRAWS_PER_S, transient=True):
        yield


@contextmanager
def _log_lines(what: str, now: Callable[[], Figures], log: logging.Logger, interval: float) -> Iterator[None]:
    logged = Figures()
    over = threading.Event()

    def log_if_changed() -> None:
        nonlocal logged
        at = now()
        # Work without progress needs no line.
        if at != logged:
            logged = at
            share = {"done": at.done, "total": at.total} if at.total is not None else {}
            log.info(what, extra={**at.values, **share})

    def tick() -> None:
        while not over.wait(interval):
            log_if_changed()

    ticking = threading.Thread(target=tick, name="rowcast-progress", daemon=True)
    ticking.start()
    try:
        yield
    finally:
        over.set()
        ticking.join()
        log_if_changed()
