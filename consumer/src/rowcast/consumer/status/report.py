"""``rowcast status``: say whether everything is all right, and show what both sides contribute."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from rowcast.shared.cli import logs
from rowcast.shared.cli.contributions import STATUS, SideStatus, StatusBlock, load_contributions
from rowcast.shared.cli.output import print_json
from rowcast.shared.cli.status_document import NoAnswer, ReplicaDocument, StatusDocument
from rowcast.shared.config.settings import Settings

_NAME_WIDTH = 10
_BARS = "▁▂▃▄▅▆▇█"
_HISTORY = 40

PROBLEMS = 1
"""The exit code if something is not as it should be."""


def report(settings: Settings, *, as_json: bool, max_behind_s: float) -> int:
    """Print the status to standard output.

    Return 0 if everything is all right, 1 if not, or the greatest exit code of the servers that do not answer.
    """
    parts = _read(settings, max_behind_s)
    code = _exit_code(parts)
    if as_json:
        print_json(_document(settings, parts).model_dump(exclude_unset=True))
    else:
        console = Console(highlight=False)
        for line in _page(parts):
            console.print(line, soft_wrap=True)
    return code


def read_document(settings: Settings) -> StatusDocument:
    """Read the status of both sides."""
    return _document(settings, _read(settings, 0.0))


def _document(settings: Settings, parts: Sequence[SideStatus]) -> StatusDocument:
    document = {"source": settings.source, "ok": _exit_code(parts) == 0, "problems": _problems(parts)}
    return StatusDocument(**document, **_data(parts))


def watch(settings: Settings, stop: threading.Event, *, max_behind_s: float, interval_s: float) -> int:
    """Show the status again and again until ``stop`` is set, with the records that wait. Return the last exit code."""
    waiting: dict[str, deque[int]] = {}
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            parts = _read(settings, max_behind_s)
            live.update(Group(*_page(parts), *_curves(parts, waiting)), refresh=True)
            if stop.wait(interval_s):
                return _exit_code(parts)


def _read(settings: Settings, max_behind_s: float) -> list[SideStatus]:
    return [part(settings, max_behind_s) for _, part in load_contributions(STATUS)]


def _exit_code(parts: Sequence[SideStatus]) -> int:
    failures = [part.failure.exit_code for part in parts if part.failure is not None]
    return max(failures, default=PROBLEMS if _problems(parts) else 0)


def _problems(parts: Sequence[SideStatus]) -> list[str]:
    """Return all problems. A server that does not answer comes first."""
    unanswered = [line for part in parts if part.failure is not None for line in part.failure.message.splitlines()]
    return [logs.mask(one) for one in (*unanswered, *(one for part in parts for one in part.problems))]


def _data(parts: Sequence[SideStatus]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.data.items()}


def _page(parts: Sequence[SideStatus]) -> Iterator[Text]:
    """Yield the lines of the page, the verdict first."""
    problems = _problems(parts)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        yield Text(f"not all right: {count}", "bold red")
        yield from (Text(f"- {problem}") for problem in problems)
    else:
        yield Text("all right", "bold green")
    for block in (block for part in parts for block in part.blocks):
        yield Text("")
        yield from _block(block)


def _block(block: StatusBlock) -> Iterator[Text]:
    yield Text(block.title, "bold")
    for name, text in block.lines:
        yield Text(f"  {name:<{_NAME_WIDTH}} {logs.mask(text)}")


def _curves(parts: Sequence[SideStatus], waiting: dict[str, deque[int]]) -> Iterator[RenderableType]:
    """Add the records that wait now to the history, and yield a curve for each replica."""
    replicas: dict[str, ReplicaDocument | NoAnswer] = _data(parts).get("replicas", {})
    if replicas:
        yield Text("\nrecords that wait", "bold")
    for name, data in replicas.items():
        history = waiting.setdefault(name, deque(maxlen=_HISTORY))
        history.append(data.records if isinstance(data, ReplicaDocument) else 0)
        yield Text(f"  {name:<{_NAME_WIDTH}} {curve(history)} {history[-1]:,}")


def curve(values: Sequence[int]) -> str:
    """Return a bar for each value. The greatest value has the highest bar, and 0 the lowest."""
    top = max(values) or 1
    return "".join(_BARS[-(-value * (len(_BARS) - 1) // top)] for value in values)
