"""What ``rowcast triggers show`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import orjson
from rich.console import Console
from rich.text import Text
from sqlalchemy.engine import Connection

from rowcast.producer.triggers.definitions import Definitions, declared_names, matching
from rowcast.producer.triggers.state import TableState, states


def report(connection: Connection, definitions: Definitions, patterns: Sequence[str], *, as_json: bool) -> int:
    """Prints the state of each table that has triggers or should have; gives the exit code.

    Raises ConfigurationError for a pattern that selects none.
    """
    found = states(connection, definitions if definitions.metadata is not None else None)
    there = {one.table for one in found}
    default = connection.dialect.default_schema_name or "main"
    for schema, name in declared_names(connection, definitions):
        if (full_name := f"{schema or default}.{name}") not in there:
            found.append(TableState(full_name, None, ("it is to be captured by triggers, and has none",), ()))
    if patterns:
        wanted = matching(((s, n) for s, _, n in (one.table.partition(".") for one in found)), patterns)
        found = [one for one in found if tuple(one.table.split(".", 1)) in wanted]
    exit_code = 1 if any(one.faults for one in found) else 0
    if as_json:
        print(orjson.dumps([asdict(one) for one in found], option=orjson.OPT_INDENT_2).decode())  # noqa: T201  # the result
        return exit_code
    console = Console(highlight=False)
    for one in found:
        console.print(_line(one), soft_wrap=True)
    if not found:
        console.print("no table has triggers")
    return exit_code


def _line(one: TableState) -> Text:
    verdict, style = ("stale", "red") if one.faults else ("current", "green")
    text = Text.assemble((f"{verdict:<8}", style), (one.table, "bold"), f" shape {one.shape or 'unknown'}")
    for fault in one.faults:
        text.append(f"\n{'':8}{fault}\n{'':8}→ rowcast triggers install {one.table}")
    for what in one.unseen:
        text.append(f"\n{'':8}not seen: {what}", style="yellow")
    return text
