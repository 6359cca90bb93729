"""Show the demo while it runs: rows, events and the replica from left to right, and the promises below."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rowcast.producer.demo.tally import Promise, Promises, Tally, Verdict
from rowcast.shared.cli import logs
from rowcast.shared.cli.progress import Figures, on_terminal, progress

_log = logging.getLogger("rowcast.demo")

_REDRAWS_PER_S = 8

_MARKS: dict[Verdict, str] = {"open": "·", "kept": "✓", "broken": "✗"}
_ASCII_MARKS: dict[Verdict, str] = {"open": "-", "kept": "ok", "broken": "NO"}
_STYLES: dict[Verdict, str] = {"open": "dim", "kept": "bold green", "broken": "bold red"}


@contextmanager
def view(tally: Tally, log_format: logs.LogFormat) -> Iterator[None]:
    """Show ``tally`` until the block ends: as a live table on a terminal, else as a log line each second.

    The live table disappears in the end, because the summary has the figures that count.
    """
    if on_terminal(log_format):
        with Live(
            get_renderable=lambda: _panel(tally),
            console=logs.stderr,
            refresh_per_second=_REDRAWS_PER_S,
            transient=True,
        ):
            yield
        return
    with progress("demo", _figures, log=_log, log_format=log_format, interval=1.0) as moved:
        moved(tally)
        yield


def promise_lines(promises: Promises, encoding: str) -> Table:
    """Return a line for each promise, with a mark and the figures. ``encoding``: the encoding of the terminal."""
    lines = Table.grid(padding=(0, 1))
    for promise in promises.all():
        lines.add_row(_mark(promise, encoding), Text(promise.title), Text(promise.result, style="bold"))
    return lines


def _mark(promise: Promise, encoding: str) -> Text:
    mark = _MARKS[promise.verdict]
    try:
        mark.encode(encoding)
    except UnicodeEncodeError:
        mark = _ASCII_MARKS[promise.verdict]
    return Text(mark, _STYLES[promise.verdict])


def _figures(tally: Tally) -> Figures:
    return Figures(
        {
            "phase": tally.phase,
            "rows_written": tally.rows,
            "events_published": tally.published,
            "lag": tally.lag,
            "behind_ms": tally.behind_ms,
            "bank_reads": tally.reads,
        }
    )


def _panel(tally: Tally) -> Panel:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    for title in ("shop", "relay → Kafka", "worker → replica", "lag"):
        table.add_column(title, ratio=1)
    table.add_row(
        f"[bold]{tally.rows:,}[/] rows in {tally.transactions:,} transactions",
        f"[bold]{tally.published:,}[/] events published",
        f"[bold]{tally.reads:,}[/] reads of the gift cards",
        f"[bold]{tally.lag:,}[/] records, {tally.behind_ms:,} ms",
    )
    bar = ProgressBar(total=tally.planned_s, completed=min(tally.traded_s, tally.planned_s))
    lines = promise_lines(tally.promises, logs.stderr.encoding)
    return Panel(Group(table, bar, lines), title=f"rowcast demo · {tally.phase}", subtitle=f"{tally.seconds:.1f} s")
