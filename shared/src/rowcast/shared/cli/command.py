"""Turn functions into commands: add the common options, set up logs, and report known errors in one line.

The commands of both sides are decorated with ``command`` and registered as entry points of the group
``rowcast.commands``. The configuration is imported only when a command reads it, so that help and shell completion
do not import SQLAlchemy.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from rowcast.shared import row_values
from rowcast.shared.cli import logs

if TYPE_CHECKING:
    from rowcast.shared.config.settings import Settings

_log = logging.getLogger("rowcast.cli")

_PANEL = "Every command"

ConfigFiles = Literal["none", "one", "several"]


@dataclass(frozen=True, slots=True)
class Invocation:
    """Hold the common options of one call.

    ``configs``: empty for the default file. Several files only if the command allows them.
    """

    configs: tuple[Path, ...] = ()
    log_format: logs.LogFormat = logs.LogFormat.text
    log_level: logs.LogLevel = logs.LogLevel.info

    def settings(self) -> Settings:
        """Read the configuration, and mask the secrets in all output from now on. Raises ConfigurationError."""
        (settings,) = self.settings_of_each()
        return settings

    def relay_settings(self) -> Settings:
        """Read the configuration as ``settings`` does, for a command that needs the topics of rowcast's relay."""
        settings = self.settings()
        settings.require_relay()
        return settings

    def settings_of_each(self) -> list[Settings]:
        """Read the configuration of each file. See ``settings``."""
        from rowcast.shared.config.settings import load

        loaded = [load(path) for path in self.configs or (None,)]
        logs.mask.add(_secrets(loaded))
        row_values.show(all(settings.log_values for settings in loaded))
        return loaded


def _secrets(loaded: Sequence[Settings]) -> Iterator[str]:
    """Yield the secrets that ``Settings.masked`` hides.

    A password equal to a name (``shop:shop@db/shop``) is masked in URLs only, because messages would be unreadable
    without the name.
    """
    urls = [d.sqlalchemy_url for s in loaded for d in (s.primary, *s.replicas.values()) if d is not None]
    names = {"rowcast", *(name for s in loaded for name in (s.source, *s.replicas))}
    names |= {str(name) for url in urls for name in (url.username, url.database, url.host) if name}
    yield from (str(url.password) for url in urls if url.password and url.password not in names)
    for settings in loaded:
        yield from settings.salts()
        yield from (key.get_secret_value() for key in settings.signature_keys)
        shown = settings.masked()["kafka"]
        yield from (str(value) for name, value in settings.kafka.items() if shown[name] != value)


def command_group(name: str, help_: str) -> typer.Typer:
    """Return a group of commands with the same first word."""
    return typer.Typer(
        name=name,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=help_,
    )


def show_version(wanted: bool) -> None:
    """Print the version and exit, for ``--version``."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"rowcast {version('rowcast')}")
        raise typer.Exit


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="ROWCAST_CONFIG",
        metavar="PATH",
        help="The configuration file (default: ./rowcast.toml).",
        rich_help_panel=_PANEL,
    ),
]
SeveralConfigsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        envvar="ROWCAST_CONFIG",
        metavar="PATH",
        help="The configuration file (default: ./rowcast.toml). Repeat it for each source.",
        rich_help_panel=_PANEL,
    ),
]
LogFormatOption = Annotated[
    logs.LogFormat,
    typer.Option(
        "--log-format",
        envvar="ROWCAST_LOG_FORMAT",
        help="Log lines on standard error as text or as JSON.",
        rich_help_panel=_PANEL,
    ),
]
LogLevelOption = Annotated[
    logs.LogLevel,
    typer.Option(
        "--log-level", envvar="ROWCAST_LOG_LEVEL", help="The least severe lines shown.", rich_help_panel=_PANEL
    ),
]
VersionOption = Annotated[
    bool,
    typer.Option(
        "--version", callback=show_version, is_eager=True, help="Show the version and exit.", rich_help_panel=_PANEL
    ),
]


def _common(config: ConfigFiles) -> list[inspect.Parameter]:
    options: list[tuple[str, Any, Any]] = [
        ("log_format", LogFormatOption, logs.LogFormat.text),
        ("log_level", LogLevelOption, logs.LogLevel.info),
        ("version", VersionOption, False),
    ]
    if config != "none":
        options.insert(0, ("config", ConfigOption if config == "one" else SeveralConfigsOption, None))
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, annotation, default in options
    ]


def command(
    *, config: ConfigFiles = "one", starts_program: bool = False
) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Make a command of a function. The function gets the invocation and its own options, and returns the exit code.

    None counts as exit code 0. ``config``: how many configuration files the command reads. ``starts_program``: options
    after the first argument belong to the program that the command starts.
    """

    def decorate(body: Callable[..., int | None]) -> Callable[..., None]:
        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]

        def run(
            *,
            log_format: logs.LogFormat,
            log_level: logs.LogLevel,
            version: bool,
            config: Path | list[Path] | None = None,
            **own: Any,
        ) -> None:
            del version  # the callback has handled it
            logs.configure(log_format, log_level)
            configs = (config,) if isinstance(config, Path) else tuple(config or ())
            code = _run(body, Invocation(configs, log_format, log_level), own)
            raise typer.Exit(code)

        parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *_common(config)]
        run.__name__, run.__doc__ = body.__name__, _paragraphs(body.__doc__ or "")
        # Typer reads the signature and the annotations.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.context_settings = {"allow_interspersed_args": not starts_program}  # type: ignore[attr-defined]
        return run

    return decorate


def _paragraphs(doc: str) -> str:
    """Join the lines of each paragraph, because the terminal has another width."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(doc))


def _run(body: Callable[..., int | None], invocation: Invocation, own: dict[str, Any]) -> int:
    from rowcast.shared.database.silence import watched_connections

    try:
        with watched_connections():
            return body(invocation, **own) or 0
    except (typer.Exit, typer.Abort, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001  # known errors are one line, all others have a traceback
        from rowcast.shared.cli import exit_codes

        failure = exit_codes.to_failure(error)
        if failure is None:
            _log.critical("this is a bug in rowcast. Please report it", exc_info=error)
            return exit_codes.BUG
        _log.debug("traceback of the error", exc_info=error)
        report_error(failure.message, invocation.log_format, exit_code=failure.exit_code)
        return failure.exit_code


def report_error(message: str, log_format: logs.LogFormat, *, exit_code: int) -> None:
    """Print an error on standard error, or log it if log lines are JSON."""
    if log_format is logs.LogFormat.json:
        _log.error(message, extra={"exit_code": exit_code})
        return
    logs.stderr.print(Text.assemble(("error: ", "bold red"), logs.mask(message)), soft_wrap=True)
