"""The command ``rowcast``.

The commands themselves live with the side they belong to and are found through the entry points of the group
``rowcast.commands``: a function (a command) or a ``typer.Typer`` (a group of commands). Each is loaded when it is
needed, so that a worker's start does not import the capture.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from rowcast.shared.errors import ConfigurationError
from rowcast.shared.options import Invocation, command, show_version

COMMANDS = "rowcast.commands"

# A new user's way through them; what is not named comes after these, by name.
_ORDER = ("demo", "check", "relay", "worker", "snapshot", "rebuild", "verify", "status", "dlq", "triggers")


class _InstalledCommands(typer.core.TyperGroup):
    """The group of what is installed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted((e.name for e in entry_points(group=COMMANDS)), key=_place)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for entry in entry_points(group=COMMANDS, name=cmd_name):
            return _loaded(entry)
        return None


def option_variables() -> set[str]:
    """The environment variables of all commands' options and arguments."""
    found: set[str] = set()
    commands = [_loaded(entry) for entry in entry_points(group=COMMANDS)]
    while commands:
        command = commands.pop()
        found.update(parameter.envvar for parameter in command.params if parameter.envvar)
        commands += getattr(command, "commands", {}).values()
    return found


def application() -> typer.Typer:
    """The root of the command line."""
    app = typer.Typer(
        name="rowcast",
        cls=_InstalledCommands,
        no_args_is_help=True,
        rich_markup_mode="rich",
        # A traceback is for bugs only, and must not show local variables: they hold passwords.
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

    Exit codes: 0 done, 1 the answer is no, 2 wrong use or configuration, 3 something needed is unreachable.
    """


def _place(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)


def _loaded(entry: EntryPoint) -> Any:
    """A command that cannot be loaded still stands in the help, and says why when it is used."""
    try:
        loaded = entry.load()
    except ImportError as error:
        loaded = _unavailable(entry, error)
    if not isinstance(loaded, typer.Typer):
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
        alone.command(entry.name)(loaded)
        loaded = alone
    return typer.main.get_command(loaded)


def _unavailable(entry: EntryPoint, error: ImportError) -> Callable[..., None]:
    reason = str(error)

    def body(_invocation: Invocation) -> None:
        name = entry.dist.name if entry.dist else "rowcast"
        raise ConfigurationError(
            f"the command {entry.name!r} cannot be loaded: {reason}. "
            f"Install what it needs with: pip install '{name}[all]'"
        )

    body.__doc__ = f"Not available: {reason}."
    return command()(body)


def main() -> None:
    """The console script."""
    application()(prog_name="rowcast")


if __name__ == "__main__":
    main()
