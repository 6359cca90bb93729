"""The command ``rowcast alerts``."""

from __future__ import annotations

import threading
import time
from typing import Annotated

import typer

from rowcast.consumer.alerts.channels import Delivery, channels
from rowcast.consumer.alerts.conditions import Condition, conditions
from rowcast.consumer.alerts.memory import Alert, AlertMemory
from rowcast.shared.cli.command import Invocation, command
from rowcast.shared.cli.exit_codes import UNREACHABLE
from rowcast.shared.cli.signals import stop_on_signals
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError


@command()
def alerts(
    invocation: Invocation,
    once: Annotated[
        bool,
        typer.Option("--once", envvar="ROWCAST_ONCE", help="Look once, send what is not all right now, and exit."),
    ] = False,
    test: Annotated[
        bool, typer.Option("--test", envvar="ROWCAST_TEST", help="Send a test to each channel, and exit.")
    ] = False,
) -> int:
    """Watch relay, outbox and replicas, and send an alert once when something is not all right, and when it is again.

    The section `alerts` of the configuration has the limits, and says where alerts go: the log, a command, a webhook.
    Run it as a process of its own, because a worker that has stopped cannot say so. With --once, exit code 1: an alert
    was sent. Exit code 3: an alert could not be delivered.
    """
    settings = invocation.settings()
    delivery = Delivery(settings.source, channels(settings.alerts))
    if once and test:
        raise ConfigurationError("--once and --test exclude each other. Choose one.")
    if test:
        return 0 if delivery.send([_test()]) else UNREACHABLE
    if once:
        found = AlertMemory(0.0).look(_look(settings), time.time())
        return UNREACHABLE if not delivery.send(found) else int(bool(found))
    with stop_on_signals() as stop:
        watch(settings, delivery, stop)
    return 0


def watch(settings: Settings, delivery: Delivery, stop: threading.Event) -> None:
    """Look at the status and deliver alerts until ``stop`` is set."""
    memory = AlertMemory(settings.alerts.after)
    while True:
        delivery.send(memory.look(_look(settings), time.time()))
        if stop.wait(settings.alerts.every):
            return


def _look(settings: Settings) -> list[Condition]:
    # The status imports both sides, which --help and --test do not need.
    from rowcast.consumer.status.report import read_document

    return conditions(settings, read_document(settings))


def _test() -> Alert:
    return Alert(Condition("test", "rowcast alerts", "this is a test, and nothing is wrong"), time.time())
