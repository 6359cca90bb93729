"""The options that every command takes, and how a command's body is run: logs set up, known failures told in one line.

``rowcast.producer.commands`` and ``rowcast.consumer.commands`` decorate their functions with ``command``; the entry
points of the group ``rowcast.commands`` name the results. The configuration is imported when it is read: help and shell
completion do without SQLAlchemy.
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

from rowcast.shared import logs

if TYPE_CHECKING:
    from rowcast.shared.config import Settings

_log = logging.getLogger("rowcast.cli")

_PANEL = "Every command"

ConfigFiles = Literal["none", "one", "several"]


@dataclass(frozen=True, slots=True)
class Invocation:
    """How the command was called, beyond its own arguments. ``configs``: none is the default file; several only where
    the command takes several."""

    configs: tuple[Path, ...] = ()
    log_format: logs.LogFormat = logs.LogFormat.text
    log_level: logs.LogLevel = logs.LogLevel.info

    def settings(self) -> Settings:
        """The configuration; from here on its secrets are starred in whatever is shown.

        Raises ConfigurationError.
        """
        (settings,) = self.settings_of_each()
        return settings

    def settings_of_each(self) -> list[Settings]:
        """As ``settings``, of every file."""
        from rowcast.shared.config import load

        loaded = [load(path) for path in self.configs or (None,)]
        logs.mask.add(_secrets(loaded))
        return loaded


def _secrets(loaded: Sequence[Settings]) -> Iterator[str]:
    """What ``Settings.masked`` hides. A password that is a name, too (``shop:shop@db/shop``), is starred in URLs only:
    without that name no message could be read."""
    urls = [d.sqlalchemy_url for s in loaded for d in (s.primary, *s.replicas.values()) if d is not None]
    names = {"rowcast", *(name for s in loaded for name in (s.source, *s.replicas))}
    names |= {str(name) for url in urls for name in (url.username, url.database, url.host) if name}
    yield from (str(url.password) for url in urls if url.password and url.password not in names)
    for settings in loaded:
        yield from settings.salts()
        shown = settings.masked()["kafka"]
        yield from (str(value) for name, value in settings.kafka.items() if shown[name] != value)


def command_group(name: str, help_: str) -> typer.Typer:
    """Commands that share a first word."""
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
    """Prints the version and ends, for ``--version``."""
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
        help="The configuration file (default: ./rowcast.toml); repeated, one for each source.",
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


def command(*, config: ConfigFiles = "one") -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Makes a command of ``body(invocation, **its own options) -> exit code``; None is 0.

    ``config``: how many configuration files it reads.
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
            del version  # its callback has seen to it
            logs.configure(log_format, log_level)
            configs = (config,) if isinstance(config, Path) else tuple(config or ())
            code = _run(body, Invocation(configs, log_format, log_level), own)
            raise typer.Exit(code)

        parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *_common(config)]
        run.__name__, run.__doc__ = body.__name__, _paragraphs(body.__doc__ or "")
        # Typer reads the signature and the annotations.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _paragraphs(doc: str) -> str:
    """The terminal's width breaks lines, not the source's."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(doc))


def _run(body: Callable[..., int | None], invocation: Invocation, own: dict[str, Any]) -> int:
    try:
        return body(invocation, **own) or 0
    except (typer.Exit, typer.Abort, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001  # told in one line if it is known, else with its traceback
        from rowcast.shared import failures

        failure = failures.known(error)
        if failure is None:
            _log.critical("this is a bug in rowcast, please report it", exc_info=error)
            return failures.BUG
        _log.debug("where it came from", exc_info=error)
        tell(failure.message, invocation.log_format, exit_code=failure.exit_code)
        return failure.exit_code


def tell(message: str, log_format: logs.LogFormat, *, exit_code: int) -> None:
    """One error for the user, on standard error."""
    if log_format is logs.LogFormat.json:
        _log.error(message, extra={"exit_code": exit_code})
        return
    logs.stderr.print(Text.assemble(("error: ", "bold red"), logs.mask(message)), soft_wrap=True)
