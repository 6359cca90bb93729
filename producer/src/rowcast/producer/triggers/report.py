"""Print the state of triggers for ``rowcast triggers show``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.text import Text
from sqlalchemy.engine import Connection

from rowcast.producer.triggers.reflected_tables import ReflectedTables, declared_tables, match_names
from rowcast.producer.triggers.state import TableState, trigger_states
from rowcast.shared.cli.output import print_json
from rowcast.shared.database.schema_names import default_schema


def report_triggers(
    connection: Connection, definitions: ReflectedTables, patterns: Sequence[str], *, as_json: bool
) -> int:
    """Print the state of each table that has or should have triggers. Return the exit code: 1 after a fault.

    Raises ConfigurationError for a pattern without a match.
    """
    found = trigger_states(connection, definitions if definitions.metadata is not None else None)
    there = {one.table for one in found}
    default = default_schema(connection.dialect)
    for schema, name in declared_tables(connection, definitions):
        if (full_name := f"{schema or default}.{name}") not in there:
            found.append(TableState(full_name, None, ("the table should be captured by triggers but has none",), ()))
    if patterns:
        wanted = match_names(((s, n) for s, _, n in (one.table.partition(".") for one in found)), patterns)
        found = [one for one in found if tuple(one.table.split(".", 1)) in wanted]
    exit_code = 1 if any(one.faults for one in found) else 0
    if as_json:
        print_json([asdict(one) for one in found])
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
        text.append(f"\n{'':8}not captured: {what}", style="yellow")
    return text
