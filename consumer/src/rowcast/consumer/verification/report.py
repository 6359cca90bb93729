"""The output of ``rowcast verify``: a line for each table and for each row that differs."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from rowcast.consumer.verification.comparison import Difference, TableResult, VerifyResult
from rowcast.shared.cli.output import print_json

_WORDS = {"missing": "not in the replica", "extra": "not in the primary"}


def report(result: VerifyResult, *, as_json: bool) -> int:
    """Print the result to standard output. Return the exit code: 1 if a row differs, else 0."""
    if as_json:
        tables = [{**_data(table), "equal": table.equal} for table in result.tables]
        document = {"equal": result.equal, "rows": result.rows, "tables": tables}
        print_json(document)
        return 0 if result.equal else 1
    console = Console(highlight=False)
    for table in result.tables:
        _print(console, table)
    if result.equal:
        console.print(Text(f"equal: {_rows(result.rows)} in {len(result.tables)} tables", style="bold green"))
        return 0
    differing = sum(not table.equal for table in result.tables)
    console.print(Text(f"different: {differing} of {len(result.tables)} tables", style="bold red"))
    return 1


def _data(table: TableResult) -> dict[str, object]:
    counts = {"missing": table.missing, "extra": table.extra, "different": table.different}
    differences = [{"kind": d.kind, "key": d.key, "columns": d.columns} for d in table.differences]
    return {"table": table.table, "rows": table.rows, **counts, "stopped": table.stopped, "differences": differences}


def _print(console: Console, table: TableResult) -> None:
    if table.equal:
        console.print(Text.assemble(("equal      ", "green"), f"{table.table}: {_rows(table.rows)}"), soft_wrap=True)
        return
    counts = {"not in the replica": table.missing, "not in the primary": table.extra, "different": table.different}
    summary = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    suffix = " (not compared to its end, because too many rows differ)" if table.stopped else ""
    console.print(
        Text.assemble(("different  ", "red"), f"{table.table}: {_rows(table.rows)}, {summary}{suffix}"), soft_wrap=True
    )
    for difference in table.differences:
        console.print(f"           {_difference(difference)}", markup=False, soft_wrap=True)
    if (more := table.missing + table.extra + table.different - len(table.differences)) > 0:
        console.print(f"           and {more:,} more")


def _difference(difference: Difference) -> str:
    key = ", ".join(f"{column}={value}" for column, value in difference.key.items())
    return f"{key}: {_WORDS.get(difference.kind) or ', '.join(difference.columns)}"


def _rows(number: int) -> str:
    return f"{number:,} row{'' if number == 1 else 's'}"
