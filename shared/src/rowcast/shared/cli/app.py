"""Build the command ``rowcast`` from the commands of both sides.

Each side registers its commands as entry points of the group ``rowcast.commands``. An entry point is a function (a
command) or a ``typer.Typer`` (a group of commands). A command is loaded when it is needed, because a worker must not
import the capture.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from rowcast.shared.cli.command import Invocation, command, show_version
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.process_tuning import pause_collector
from rowcast.shared.suggestions import did_you_mean

COMMANDS = "rowcast.commands"

# The commands in the order of a new user's needs. All other commands follow by name.
_ORDER = (
    "demo",
    "init",
    "check",
    "relay",
    "worker",
    "snapshot",
    "rebuild",
    "migrate",
    "promote",
    "verify",
    "status",
    "alerts",
    "sink",
    "trace",
    "replay",
    "topics",
    "dlq",
    "triggers",
    "instrument",
)


_COMMON_OPTIONS = ("--config", "--log-format", "--log-level")


class _InstalledCommands(typer.core.TyperGroup):
    """List and load the installed commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted((e.name for e in entry_points(group=COMMANDS)), key=_place)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for entry in entry_points(group=COMMANDS, name=cmd_name):
            return _loaded(entry)
        return None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No such command {args[0]!r}.{did_you_mean(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[0] if args else ""
        # Many programs take such an option here.
        if first.partition("=")[0] in _COMMON_OPTIONS:
            ctx.fail(f"Give {first.partition('=')[0]} behind the command, as in `rowcast status {' '.join(args[:2])}`.")
        return super().parse_args(ctx, args)


def option_variables() -> set[str]:
    """Return the environment variables of the options and arguments of all commands."""
    found: set[str] = set()
    commands = [_loaded(entry) for entry in entry_points(group=COMMANDS)]
    while commands:
        command = commands.pop()
        found.update(parameter.envvar for parameter in command.params if parameter.envvar)
        commands += getattr(command, "commands", {}).values()
    return found


def application() -> typer.Typer:
    """Return the root of the command line."""
    app = typer.Typer(
        name="rowcast",
        cls=_InstalledCommands,
        no_args_is_help=True,
        rich_markup_mode="rich",
        # Only bugs have a traceback. The traceback must not show local variables, because a variable may hold a
        # password.
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    return app


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Change data capture for applications that use SQLAlchemy: outbox, Kafka, replicas.

    Exit codes: 0 done, 1 the answer is no, 2 wrong use or configuration, 3 a server is unreachable,
    4 the process was stuck and ended itself.
    """


def _place(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)


def _loaded(entry: EntryPoint) -> Any:
    """Load a command. A broken command stays in the help and reports the reason when used."""
    try:
        with pause_collector():
            loaded = entry.load()
    except ImportError as error:
        loaded = _unavailable(entry, error)
    if not isinstance(loaded, typer.Typer):
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
        alone.command(entry.name, context_settings=loaded.context_settings)(loaded)
        loaded = alone
    return typer.main.get_command(loaded)


def _unavailable(entry: EntryPoint, error: ImportError) -> Callable[..., None]:
    reason = str(error)

    def body(_invocation: Invocation) -> None:
        raise ConfigurationError(
            f"the command {entry.name!r} cannot be loaded: {reason}. "
            "Install the missing packages, in a clone of rowcast, with: pip install '.[all]'"
        )

    body.__doc__ = f"Not available: {reason}."
    return command()(body)


def main() -> None:
    """Run the console script."""
    application()(prog_name="rowcast")
