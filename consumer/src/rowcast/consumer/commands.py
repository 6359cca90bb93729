"""The consuming side's commands: worker, verify, status. Imports wait until a command runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.shared.metrics import MetricsOption, require_metrics, served
from rowcast.shared.options import Invocation, command
from rowcast.shared.progress import DEFAULT_INTERVAL_S, IntervalOption, fields_of, progress
from rowcast.shared.stopping import stop_on_signals

if TYPE_CHECKING:
    from rowcast.consumer.progress import WorkerProgress

_log = logging.getLogger("rowcast.worker")
_verify_log = logging.getLogger("rowcast.verify")

ReplicaArgument = Annotated[
    str,
    typer.Argument(metavar="REPLICA", envvar="ROWCAST_REPLICA", help=r"\[replicas.NAME] in the configuration."),
]


@command()
def worker(
    invocation: Invocation,
    replica: ReplicaArgument,
    once: Annotated[
        bool,
        typer.Option("--once", envvar="ROWCAST_ONCE", help="Apply up to the topics' ends as they are now, then exit."),
    ] = False,
    progress_interval: IntervalOption = DEFAULT_INTERVAL_S,
    metrics: MetricsOption = None,
) -> None:
    """Apply the topics to a replica.

    Start as many as you like: one is active for each replica, the others stand by and take over when it goes. SIGTERM
    and Ctrl-C finish the batch in hand.
    """
    from rowcast.consumer.worker import run_worker

    settings = invocation.settings()
    with (
        progress("applied", fields_of, log=_log, log_format=invocation.log_format, interval=progress_interval) as shown,
        _with_metrics(metrics, settings.source, replica, shown) as moved,
        stop_on_signals() as stop,
    ):
        run_worker(settings, replica, once=once, stop=stop, on_progress=moved)


@contextmanager
def _with_metrics(
    address: str | None, source: str, replica: str, shown: Callable[[WorkerProgress], None]
) -> Iterator[Callable[[WorkerProgress], None]]:
    """What is shown is told to Prometheus, too, where an address is given."""
    if address is None:
        yield shown
        return
    require_metrics()
    from rowcast.consumer.metrics import WorkerMetrics

    metrics = WorkerMetrics(source, replica)

    def both(progress: WorkerProgress) -> None:
        shown(progress)
        metrics.moved(progress)

    with served(address, metrics):
        yield both


@command()
def verify(
    invocation: Invocation,
    replica: ReplicaArgument,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table", envvar="ROWCAST_TABLE", metavar="PATTERN", help="Only these, as in public.ord*; may be repeated."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="The result as JSON.")] = False,
    progress_interval: IntervalOption = DEFAULT_INTERVAL_S,
) -> int:
    """Compare a replica with the primary, row by row, while both are live.

    Exit code 0: they are equal. 1: rows differ; each is named.
    """
    from rowcast.consumer.verify import verify as compare
    from rowcast.consumer.verify_report import report

    settings = invocation.settings()
    with progress(
        "comparing", fields_of, log=_verify_log, log_format=invocation.log_format, interval=progress_interval
    ) as moved:
        result = compare(settings, replica, tables=table or None, on_progress=moved)
    return report(result, as_json=as_json)


@command()
def status(
    invocation: Invocation,
    as_json: Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="The figures as JSON.")] = False,
) -> int:
    """Show the outbox's backlog, and how far each replica is behind.

    Exit code 3: something does not answer; what does is shown all the same.
    """
    from rowcast.consumer.status import report

    return report(invocation.settings(), as_json=as_json)
