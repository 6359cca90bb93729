"""Print parked transactions for ``rowcast dlq``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from rowcast.producer.outbox.parked_rows import ParkedRow, ParkedTransaction
from rowcast.shared.cli.output import print_json

_SHOWN = 400
"""The greatest number of characters of a change to print. ``--json`` prints all of it."""


def report_transactions(found: Sequence[ParkedTransaction], *, as_json: bool) -> int:
    """Print the transactions. Return the exit code: 1 if there are any."""
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


def report_rows(rows: Sequence[ParkedRow], *, as_json: bool) -> None:
    """Print the changes of a transaction line by line, also damaged ones."""
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
        # The time itself may be damaged.
        return repr(ms)


def _print_json(document: list[dict[str, Any]]) -> None:
    print_json(document, default=repr)
