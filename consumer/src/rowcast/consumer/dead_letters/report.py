"""Print letters for ``rowcast dlq``."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from rowcast.consumer.dead_letters.letters import Letter
from rowcast.consumer.events.dead_letter import LetterEvent
from rowcast.shared.cli.output import print_json

_SHOWN = 400
"""The greatest number of characters of a key or value to print. ``--json`` prints all of it."""


def report_letters(letters: Sequence[Letter], *, as_json: bool) -> int:
    """Print letters with the reasons, without values of rows. Return 1 if letters wait, else 0."""
    if as_json:
        print_json([{**_summary(letter), "events": [_place(one) for one in letter.events]} for letter in letters])
        return 1 if letters else 0
    console = Console(highlight=False)
    for letter in letters:
        _print_letter(console, letter)
    if not letters:
        console.print("no letter waits")
    return 1 if letters else 0


def report_messages(letters: Sequence[Letter], messages: Mapping[LetterEvent, Any], *, as_json: bool) -> None:
    """Print letters with the original keys, values and headers."""
    if as_json:
        documents = []
        for letter in letters:
            events = [{**_place(one), "message": _message(messages.get(one))} for one in letter.events]
            documents.append({**_summary(letter), "events": events})
        print_json(documents)
        return
    console = Console(highlight=False)
    for letter in letters:
        _print_letter(console, letter)
        for one in letter.events:
            console.print(
                Text(f"    {one.event.target}, in {one.place[0]} at offset {one.place_offset}"), soft_wrap=True
            )
            shown = _message(messages.get(one)) or {"value": "not in the dead letter topic any more"}
            for name in shown:
                console.print(Text(f"        {name}: {_cut(str(shown[name]))}"), soft_wrap=True)


def _print_letter(console: Console, letter: Letter) -> None:
    first = letter.first
    tables = ", ".join(sorted({one.event.table or "unknown table" for one in letter.events}))
    kind = "refused" if first.event.is_cause else "follows"
    about = f" {kind} since {_time(first.at_ms)}, {len(letter.events)} events of {tables}"
    console.print(Text.assemble((letter.id, "bold"), f"{about}\n    {first.event.reason}"), soft_wrap=True)


def _summary(letter: Letter) -> dict[str, Any]:
    first = letter.first
    return {
        "id": letter.id,
        "tx": first.event.transaction,
        "lsn": letter.lsn,
        "since_ms": min(one.at_ms for one in letter.events),
        "follows": not first.event.is_cause,
        "stage": first.event.stage,
        "exception": first.event.exception or None,
        "reason": first.event.reason,
    }


def _place(one: LetterEvent) -> dict[str, Any]:
    return {
        "topic": one.event.partition[0],
        "partition": one.event.partition[1],
        "offset": one.event.offset,
        "lsn": one.event.lsn,
        "table": one.event.table,
        "refused": one.event.is_cause,
        "dlq_topic": one.place[0],
        "dlq_partition": one.place[1],
        "dlq_offset": one.place_offset,
    }


def _message(message: Any) -> dict[str, Any] | None:
    """Return key, value and headers of a message. Bytes that are no text are in base64."""
    if message is None:
        return None
    headers = {name: _text(value) for name, value in message.headers() or ()}
    return {"key": _text(message.key()), "value": _text(message.value()), "headers": headers}


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode()}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
