"""Define the command ``rowcast instrument``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from rowcast.shared.cli.command import Invocation, command
from rowcast.shared.errors import ConfigurationError


@command(starts_program=True)
def instrument(
    invocation: Invocation,
    program: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND", envvar="ROWCAST_COMMAND", help="The program and its arguments."),
    ],
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata",
            envvar="ROWCAST_METADATA",
            metavar="MODULE:ATTRIBUTE",
            help="The program's MetaData or declarative base. Repeat it for several (default: the tables as the "
            "database describes them).",
        ),
    ] = None,
    url_match: Annotated[
        list[str] | None,
        typer.Option(
            "--url-match",
            envvar="ROWCAST_URL_MATCH",
            metavar="PATTERN",
            help="Capture the engines whose URL matches, such as 'postgresql*/shop'. The password of the URL is ***. "
            "Repeat it for several (default: the engines of the primary's database).",
        ),
    ] = None,
    capture_by: Annotated[
        Literal["listeners", "triggers"],
        typer.Option(
            "--by",
            envvar="ROWCAST_CAPTURE_BY",
            help="Capture by listeners in the program, or by triggers, which the program installs when it connects.",
        ),
    ] = "listeners",
    strict: Annotated[
        Literal["warn", "raise"],
        typer.Option(
            "--strict",
            envvar="ROWCAST_STRICT",
            help="Warn of a statement whose changes cannot be captured, or let it fail.",
        ),
    ] = "warn",
    create_outbox: Annotated[
        bool,
        typer.Option(
            "--create-outbox",
            envvar="ROWCAST_CREATE_OUTBOX",
            help="Create missing outbox tables at the program's first connection, as rowcast init does.",
        ),
    ] = False,
    no_migrations: Annotated[
        bool,
        typer.Option(
            "--no-migrations",
            envvar="ROWCAST_NO_MIGRATIONS",
            help="Leave out the rows that the program's own Alembic migrations change.",
        ),
    ] = False,
) -> None:
    """Run a program that knows nothing of rowcast, and capture the changes that it makes.

    The program builds its own engines. Each engine of the source's database gets the capture when it first connects,
    in the program and in the Python processes that it forks or starts. No file of the program changes, and
    rowcast opens no connection of its own there. Exit code: the program's.
    """
    from rowcast.producer.instrumentation.databases import SourceDatabase
    from rowcast.producer.instrumentation.options import Options
    from rowcast.shared.config.settings import DEFAULT_PATH

    file = invocation.configs[0] if invocation.configs else DEFAULT_PATH if DEFAULT_PATH.is_file() else None
    options = Options(
        config=None if file is None else str(file.resolve()),
        folder=str(Path.cwd()),
        metadata=_checked(metadata or ()),
        url_match=tuple(url_match or ()),
        capture_by=capture_by,
        strict=strict,
        create_outbox=create_outbox,
        migrations=not no_migrations,
    )
    # A wrong configuration is an error now, and not when the program connects.
    SourceDatabase(options, invocation.settings())
    path = shutil.which(program[0])
    if path is None:
        raise ConfigurationError(
            f"there is no program {program[0]!r} on PATH that may be executed. "
            "Write it like: rowcast instrument -- python -m shop"
        )
    environment = dict(os.environ)
    options.put_into(environment)
    # The new program would drop the buffered output of the present program.
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(path, program, environment)


def _checked(names: list[str] | tuple[()]) -> tuple[str, ...]:
    for name in names:
        module, colon, attribute = name.partition(":")
        if not (module and colon and attribute):
            raise ConfigurationError(f"--metadata {name}: write it like shop.models:Base.")
    return tuple(names)
