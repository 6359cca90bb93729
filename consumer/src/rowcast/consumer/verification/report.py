"""The output of ``rowcast verify``: a line for each table and for each row that differs."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from rowcast.consumer.verification.results import Difference, TableResult, Verdict, VerifyProgress, VerifyResult
from rowcast.shared.cli.output import print_json
from rowcast.shared.cli.progress import Figures

_WORDS = {"missing": "not in the replica", "extra": "not in the primary"}
_SHOWN_ROWS = 20
_SHOWN_COLUMNS = 8

_STYLES: dict[Verdict, str] = {
    "equal": "bold green",
    "different": "bold red",
    "behind": "bold yellow",
    "nothing compared": "bold red",
}


def report(result: VerifyResult, *, as_json: bool) -> int:
    """Print the result to standard output. Return the exit code: 0 if rows were compared and are equal, else 1."""
    if as_json:
        print_json(document(result))
    else:
        console = Console(highlight=False)
        for table in result.tables:
            _print(console, table)
        console.print(Text(summary(result), style=_STYLES[result.verdict]), soft_wrap=True)
    return 0 if result.equal else 1


def document(result: VerifyResult) -> dict[str, object]:
    """Return the result as JSON values."""
    tables = [{**_data(table), "equal": table.equal} for table in result.tables]
    return {
        "equal": result.equal,
        "verdict": result.verdict,
        "reason": result.reason,
        "rows": result.rows,
        "tables": tables,
    }


def progress_figures(progress: VerifyProgress) -> Figures:
    """Return the figures of the line that shows the progress, short enough for a terminal of 80 columns."""
    rate = progress.rows / progress.s if progress.s else 0
    left = f"{(progress.of - progress.rows) / rate:,.0f} s" if rate else "?"
    differing = {"differing": progress.differing} if progress.differing else {}
    return Figures({"rows": progress.rows, "left": left, **differing}, progress.rows, progress.of)


def summary(result: VerifyResult) -> str:
    """Return the result in a line."""
    count = len(result.tables)
    match result.verdict:
        case "equal":
            return f"equal: {_rows(result.rows)} in {_tables(count)}"
        case "different":
            return f"different: {sum(table.differing > 0 for table in result.tables)} of {_tables(count)}"
        case "behind":
            late = sum(table.behind for table in result.tables)
            return f"behind: {_rows(late)} could not be compared at one position, because {result.reason}"
    if not result.tables:
        return "nothing compared: the primary has no captured table that belongs to this replica. Run `rowcast check`"
    return f"nothing compared: no row in {_tables(count)}"


def _data(table: TableResult) -> dict[str, object]:
    counts = {"missing": table.missing, "extra": table.extra, "different": table.different, "behind": table.behind}
    differences = [{"kind": d.kind, "key": d.key, "columns": d.columns} for d in table.differences]
    return {
        "table": table.table,
        "rows": table.rows,
        **counts,
        "stopped": table.stopped,
        "view": table.view,
        "columns": table.columns,
        "differences": differences,
    }


def _print(console: Console, table: TableResult) -> None:
    through = f" (through the view: {table.view})" if table.view else ""
    if table.equal:
        text = f"{table.table}: {_rows(table.rows)}{through}"
        console.print(Text.assemble(("equal      ", "green"), text), soft_wrap=True)
        return
    counts = {
        "not in the replica": table.missing,
        "not in the primary": table.extra,
        "different": table.different,
        "behind": table.behind,
    }
    counted = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    suffix = " (not compared to its end, because too many rows differ)" if table.stopped else ""
    word = ("different  ", "red") if table.differing else ("behind     ", "yellow")
    console.print(
        Text.assemble(word, f"{table.table}: {_rows(table.rows)}, {counted}{suffix}{through}"), soft_wrap=True
    )
    if len(table.columns) > 1:
        columns = list(table.columns.items())
        shown = ", ".join(f"{name} {count:,}" for name, count in columns[:_SHOWN_COLUMNS])
        more = "" if len(columns) <= _SHOWN_COLUMNS else f" and {len(columns) - _SHOWN_COLUMNS} more"
        console.print(f"           by column: {shown}{more}", markup=False, soft_wrap=True)
    for difference in table.differences[:_SHOWN_ROWS]:
        console.print(f"           {_difference(difference)}", markup=False, soft_wrap=True)
    if (hidden := len(table.differences) - _SHOWN_ROWS) > 0:
        console.print(f"           and {hidden:,} more. --json has all of them")


def _difference(difference: Difference) -> str:
    key = ", ".join(f"{column}={value}" for column, value in difference.key.items())
    return f"{key}: {_WORDS.get(difference.kind) or ', '.join(difference.columns)}"


def _rows(number: int) -> str:
    return f"{number:,} row{'' if number == 1 else 's'}"


def _tables(number: int) -> str:
    return f"{number:,} table{'' if number == 1 else 's'}"
