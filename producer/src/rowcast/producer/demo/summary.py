"""Print the result of the demo, and three commands to continue with. Each works as printed, in the same directory."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text
from sqlalchemy.engine import URL

from rowcast.producer.demo.live_view import promise_lines
from rowcast.producer.demo.tally import Tally
from rowcast.producer.demo.workspace import REPLICA_NAME, Workspace, database_file


def print_summary(where: Workspace, tally: Tally, comparison: str, *, kafka_stays: bool) -> None:
    """Print the result to standard output.

    ``comparison``: the output of ``rowcast verify``. ``kafka_stays``: Kafka keeps running after this process.
    """
    console = Console(highlight=False)
    console.print(Text(comparison))
    console.print(promise_lines(tally.promises, console.encoding))
    if not tally.promises.are_kept:
        console.print(Text(f"\nA promise was not kept. Logs: {where.directory}{os.sep}*.log", "bold red"))
        return
    console.print(
        Text.assemble(
            ("\nEvery promise was kept: primary and replica are equal.", "bold green"),
            f"\n{tally.rows:,} row changes in {tally.transactions:,} transactions "
            f"and {tally.repaired:,} repaired rows: {tally.published:,} events, {tally.seconds:.1f} s.\n"
            f"  primary  {_place(where.primary)}\n  replica  {_place(where.replica)}\n\nNext steps:",
        ),
        soft_wrap=True,
    )
    for command, why in next_commands(where, kafka_stays=kafka_stays):
        console.print(Text.assemble(f"  {command}", (f"  # {why}", "dim")), soft_wrap=True)


def next_commands(where: Workspace, *, kafka_stays: bool) -> list[tuple[str, str]]:
    """Return three commands, each with its purpose."""
    config = shlex.quote(_shown(where.config))
    verify = f"{_rowcast()} verify {REPLICA_NAME} --config {config}"
    template = (f"cat {config}", "the configuration of this run, as a template")
    look = _query(where.replica, "SELECT status, count(*) FROM orders GROUP BY status")
    commands = [(look, "query the replica") if look is not None else template]
    commands.append((verify, "compare both databases again"))
    if kafka_stays:
        commands.append((f"{_rowcast()} status --config {config}", "backlog and lag"))
    elif look is not None:
        commands.append(template)
    else:
        commands.append((f"{_rowcast()} demo --seed 2", "another run, on SQLite"))
    return commands


def _query(database: URL, statement: str) -> str | None:
    """Return a command for SQL on an SQLite file, or None for other engines, because the shell may be missing."""
    path = database_file(database)
    if path is None:
        return None
    file = shlex.quote(_shown(path))
    if shutil.which("sqlite3"):
        return f'sqlite3 {file} "{statement}"'
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(*c.execute(sys.argv[2])); c.commit()"
    return f'{shlex.quote(_shown(Path(sys.executable)))} -c {shlex.quote(program)} {file} "{statement}"'


def _place(database: URL) -> str:
    """Return the path of a file, or the URL of a server with stars for the password."""
    path = database_file(database)
    return str(database) if path is None else _shown(path)


def _rowcast() -> str:
    """Return ``rowcast``, with the directory if not on the shell's path."""
    own = Path(sys.executable).with_name("rowcast")
    found = shutil.which("rowcast")
    if not own.exists() or (found is not None and Path(found).samefile(own)):
        return "rowcast"
    return shlex.quote(_shown(own))


def _shown(path: Path) -> str:
    """Return the path relative to the working directory if it is below, else the absolute path."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith("..") else relative
