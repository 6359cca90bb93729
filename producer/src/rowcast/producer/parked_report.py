"""What ``rowcast dlq`` prints of parked transactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson
from rich.console import Console
from rich.text import Text

from rowcast.producer.parked import ParkedRow, ParkedTransaction

_SHOWN = 400
"""Characters of a change; ``--json`` has all of it."""


def report_all(found: Sequence[ParkedTransaction], *, as_json: bool) -> int:
    """Prints them; gives the exit code."""
    if as_json:
        _print_json([asdict(one) for one in found])
        return 1 if found else 0
    console = Console(highlight=False)
    for one in found:
        when = f" committed {_time(one.ts_ms)}, parked {_time(one.parked_ms)}, {one.rows} outbox rows"
        console.print(Text.assemble((one.tx, "bold"), f"{when}\n    {one.reason}"), soft_wrap=True)
    if not found:
        console.print("no transaction is parked")
    return 1 if found else 0


def report_one(rows: Sequence[ParkedRow], *, as_json: bool) -> None:
    """Prints its changes, line by line; damaged ones as they are."""
    if as_json:
        _print_json([asdict(row) for row in rows])
        return
    console = Console(highlight=False)
    for row in rows:
        title = f"row {row.id}" if row.context is None else f"row {row.id}, context {row.context}"
        console.print(Text(title, "bold"), soft_wrap=True)
        for line in str(row.changes).splitlines():
            cut = f"… ({len(line):,} characters)" if len(line) > _SHOWN else ""
            console.print(Text(f"    {line[:_SHOWN]}{cut}"), soft_wrap=True)


def _time(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "milliseconds").removesuffix("+00:00") + " UTC"
    except (TypeError, ValueError, OverflowError):
        # It may be what is damaged.
        return repr(ms)


def _print_json(document: list[dict[str, Any]]) -> None:
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=repr).decode())  # noqa: T201  # the result
