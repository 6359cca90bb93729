"""Show the demo while it runs: rows on the left, events in the middle, the replica on the right."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich import box
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from rowcast.shared.cli import logs
from rowcast.shared.cli.progress import Figures, on_terminal, progress

_log = logging.getLogger("rowcast.demo")

_REDRAWS_PER_S = 8


@dataclass(slots=True)
class Tally:
    """Hold the figures of a run. The shop counts rows, and relay and worker report events and ``behind_ms``."""

    planned_s: float
    traded_s: float = 0.0
    transactions: int = 0
    rows: int = 0
    published: int = 0
    applied: int = 0
    behind_ms: int = 0
    phase: str = "starting"
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started

    @property
    def lag(self) -> int:
        """Return how many of the shop's rows are not on the replica yet."""
        return max(0, self.rows - self.applied)


@contextmanager
def view(tally: Tally, log_format: logs.LogFormat) -> Iterator[None]:
    """Show ``tally`` until the block ends: as a live table on a terminal, else as a log line each second."""
    if on_terminal(log_format):
        with Live(
            get_renderable=lambda: _panel(tally),
            console=logs.stderr,
            refresh_per_second=_REDRAWS_PER_S,
            transient=False,
        ):
            yield
        return
    with progress("demo", _figures, log=_log, log_format=log_format, interval=1.0) as moved:
        moved(tally)
        yield


def _figures(tally: Tally) -> Figures:
    return Figures(
        {
            "phase": tally.phase,
            "rows_written": tally.rows,
            "events_published": tally.published,
            "events_applied": tally.applied,
            "lag": tally.lag,
            "behind_ms": tally.behind_ms,
        }
    )


def _panel(tally: Tally) -> Panel:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    for title in ("shop (the application)", "relay → Kafka", "worker → replica", "lag"):
        table.add_column(title, ratio=1)
    table.add_row(
        f"[bold]{tally.rows:,}[/] rows in {tally.transactions:,} transactions",
        f"[bold]{tally.published:,}[/] events published",
        f"[bold]{tally.applied:,}[/] events applied",
        f"[bold]{tally.lag:,}[/] rows, {tally.behind_ms:,} ms",
    )
    table.add_row(ProgressBar(total=tally.planned_s, completed=tally.traded_s))
    return Panel(table, title=f"rowcast demo · {tally.phase}", subtitle=f"{tally.seconds:.1f} s")
