"""The command ``rowcast sink``: run a sink of the configuration."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowcast.shared.cli.command import Invocation, command
from rowcast.shared.cli.progress import DEFAULT_INTERVAL_S, IntervalOption, figures_of, progress
from rowcast.shared.cli.signals import stop_on_signals
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.suggestions import did_you_mean

if TYPE_CHECKING:
    from rowcast.consumer.sinks.sink import Sink
    from rowcast.shared.config.settings import Settings
    from rowcast.shared.config.sink_settings import SinkSettings

_log = logging.getLogger("rowcast.sink")

GROUP = "rowcast.sinks"


@command()
def sink(
    invocation: Invocation,
    name: Annotated[
        str, typer.Argument(metavar="SINK", envvar="ROWCAST_SINK", help=r"\[sinks.NAME] in the configuration.")
    ],
    once: Annotated[
        bool, typer.Option("--once", envvar="ROWCAST_ONCE", help="Go up to the present ends of the topics, then exit.")
    ] = False,
    progress_interval: IntervalOption = DEFAULT_INTERVAL_S,
) -> None:
    """Give the transactions of the source to a sink of yours, whole and in order.

    Run one process for each sink. SIGTERM and Ctrl-C finish the current batch.
    """
    from rowcast.consumer.sinks.run import run_sink

    settings = invocation.settings()
    options = _options(settings, name)
    made = make_sink(name, options)
    with (
        progress(
            "gave", figures_of, log=_log, log_format=invocation.log_format, interval=progress_interval
        ) as on_progress,
        stop_on_signals() as stop,
    ):
        run_sink(
            settings,
            made,
            tables=options.tables,
            once=once,
            stop=stop,
            on_progress=on_progress,
            batch_events=options.batch_events,
            buffer_events=options.buffer_events,
        )


def _options(settings: Settings, name: str) -> SinkSettings:
    if name not in settings.sinks:
        known = ", ".join(sorted(settings.sinks)) or "none"
        raise ConfigurationError(
            f"no sink {name!r} in the configuration (configured: {known})."
            f"{did_you_mean(name, settings.sinks) or f' Add a [sinks.{name}] section.'}"
        )
    return settings.sinks[name]


def make_sink(name: str, options: SinkSettings) -> Sink:
    """Return the sink of a section. Raise ConfigurationError if it cannot be made."""
    factory = _factory(name, options.use)
    try:
        made: Sink = factory(**options.options)
    except TypeError as error:
        raise ConfigurationError(f"[sinks.{name}]: {options.use} does not take these options: {error}") from error
    return made


def _factory(name: str, use: str) -> Any:
    module, colon, attribute = use.partition(":")
    if not colon:
        for entry in entry_points(group=GROUP, name=use):
            return entry.load()
        known = ", ".join(sorted(entry.name for entry in entry_points(group=GROUP))) or "none"
        raise ConfigurationError(
            f"[sinks.{name}]: {use!r} is no entry point of {GROUP} (installed: {known}). Name it, or module:callable."
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(import_module(module), attribute)
    except ImportError as error:
        raise ConfigurationError(f"[sinks.{name}]: {use} cannot be imported: {error}") from error
    except AttributeError:
        raise ConfigurationError(f"[sinks.{name}]: the module {module} has no {attribute!r}.") from None
