"""The producing side's commands: demo, check, relay, snapshot.

Kafka clients and the demo are imported when a command runs, so that help and completion are quick, and so that a
missing extra is told by the command that needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.shared.errors import ConfigurationError
from rowcast.shared.interpreter import tuned_interpreter
from rowcast.shared.metrics import MetricsOption, require_metrics, served
from rowcast.shared.options import Invocation, command
from rowcast.shared.progress import DEFAULT_INTERVAL_S, IntervalOption, fields_of, progress, progress_of_each
from rowcast.shared.stopping import stop_on_signals

if TYPE_CHECKING:
    from rowcast.producer.relay import OnProgress, RelayProgress
    from rowcast.shared.config import Settings

_log = logging.getLogger("rowcast.relay")
_snapshot_log = logging.getLogger("rowcast.snapshot")

CHUNK_ROWS = 5_000


@command(config="several")
def relay(
    invocation: Invocation,
    once: Annotated[
        bool, typer.Option("--once", envvar="ROWCAST_ONCE", help="Publish until the outbox is empty, then exit.")
    ] = False,
    progress_interval: IntervalOption = DEFAULT_INTERVAL_S,
    metrics: MetricsOption = None,
) -> int:
    """Publish the outbox to Kafka.

    Start as many as you like: one leads, the others stand by and take over when it goes. SIGTERM and Ctrl-C finish the
    batch in hand. With several --config one process serves several sources.
    """
    from rowcast.producer.relay import run_relay, run_relays

    settings = invocation.settings_of_each()
    with (
        progress_of_each(
            "published", fields_of, len(settings),
            log=_log, log_format=invocation.log_format, interval=progress_interval,
        ) as shown,
        _with_metrics(metrics, settings, shown) as moved,
        stop_on_signals() as stop,
        tuned_interpreter(),
    ):  # fmt: skip
        if len(settings) > 1:
            return run_relays(list(zip(invocation.configs, settings, strict=True)), once, stop, moved)
        run_relay(settings[0], once, stop, moved[0])
    return 0


@contextmanager
def _with_metrics(
    address: str | None, settings: Sequence[Settings], shown: Sequence[OnProgress]
) -> Iterator[Sequence[OnProgress]]:
    """What is shown is told to Prometheus, too, where an address is given."""
    if address is None:
        yield shown
        return
    require_metrics()
    from rowcast.producer.relay.metrics import RelayMetrics

    metrics = RelayMetrics(settings)

    def both(show: OnProgress, progress: RelayProgress) -> None:
        show(progress)
        metrics.moved(progress)

    with served(address, metrics):
        yield [partial(both, show) for show in shown]


@command()
def snapshot(
    invocation: Invocation,
    table: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TABLE]...", envvar="ROWCAST_TABLE", help="Of these tables (default: all captured)."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            envvar="ROWCAST_WHERE",
            metavar="SQL",
            help="Only the rows for which this is true.",
        ),
    ] = None,
    chunk_size: Annotated[
        int,
        typer.Option("--chunk-size", envvar="ROWCAST_CHUNK_SIZE", metavar="ROWS", min=1, help="Rows read at once."),
    ] = CHUNK_ROWS,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", envvar="ROWCAST_WAIT", help="Wait until the relay has made it.")
    ] = True,
    pause: Annotated[
        bool, typer.Option("--pause", envvar="ROWCAST_PAUSE", help="Pause what is under way, instead of asking anew.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", envvar="ROWCAST_RESUME", help="Go on with what is paused.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", envvar="ROWCAST_STOP", help="End what is under way: it will not be resumed.")
    ] = False,
    progress_interval: IntervalOption = DEFAULT_INTERVAL_S,
) -> int:
    """Bring rows that are there into the topics, while the application writes.

    The relay that leads makes it, chunk by chunk, and goes on after any crash. Exit code 0: done. 1: one has failed,
    which is told. Ctrl-C ends the waiting, not the snapshot.
    """
    from rowcast.producer.snapshot_requests import SnapshotRequests
    from rowcast.producer.snapshots import State

    changes = [name for name, wanted in (("pause", pause), ("resume", resume), ("stop", stop)) if wanted]
    if len(changes) > 1:
        raise ConfigurationError(f"--{' and --'.join(changes)} exclude each other; choose one.")
    requests = SnapshotRequests(invocation.settings())
    try:
        if changes:
            count = requests.change(changes[0], table or ())
            _snapshot_log.info("%s: %d snapshots", changes[0], count)
            return 0 if count else 1
        ids = requests.ask(table or (), where, chunk_size)
        if not wait:
            return 0
        with (
            progress(
                "snapshot", fields_of, log=_snapshot_log, log_format=invocation.log_format, interval=progress_interval
            ) as moved,
            stop_on_signals() as stopping,
        ):
            found = requests.wait(ids, stopping, moved)
    finally:
        requests.close()
    for one in found:
        if one.reason is None:
            _snapshot_log.info("%s: %s, %d rows", one.table, one.state, one.rows_read)
        else:
            _snapshot_log.error("%s: %s", one.table, one.reason)
    return 1 if any(one.state is State.failed for one in found) else 0


@command()
def check(
    invocation: Invocation,
    as_json: Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="The findings as JSON.")] = False,
) -> int:
    """Connect to everything the configuration names; say what is missing, and how to mend it.

    Exit code 0: all is well. 1: something is missing. 2: the configuration is wrong. 3: something does not answer.
    """
    from rowcast.producer.checks.report import report

    return report(invocation.settings(), as_json=as_json)


@command(config="none")
def demo(
    invocation: Invocation,
    directory: Annotated[
        Path,
        typer.Option(
            "--directory", envvar="ROWCAST_DEMO_DIRECTORY", metavar="PATH", help="Where the databases and logs go."
        ),
    ] = Path("rowcast-demo"),
    seconds: Annotated[
        float, typer.Option("--seconds", envvar="ROWCAST_DEMO_SECONDS", min=0.5, help="How long the shop trades.")
    ] = 7.0,
    seed: Annotated[
        int, typer.Option("--seed", envvar="ROWCAST_DEMO_SEED", help="The same seed, the same customers and orders.")
    ] = 1,
    kafka: Annotated[
        str | None,
        typer.Option(
            "--kafka",
            envvar="ROWCAST_DEMO_KAFKA",
            metavar="HOST:PORT",
            help="Brokers of a real Kafka (default: one inside this process).",
        ),
    ] = None,
    primary: Annotated[
        str | None,
        typer.Option(
            "--primary",
            envvar="ROWCAST_DEMO_PRIMARY",
            metavar="URL",
            help="The shop's own database; the demo's tables there are made anew (default: an SQLite file).",
        ),
    ] = None,
    replica: Annotated[
        str | None,
        typer.Option(
            "--replica",
            envvar="ROWCAST_DEMO_REPLICA",
            metavar="URL",
            help="The replica, of any engine; the demo's tables there are made anew (default: an SQLite file).",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            envvar="ROWCAST_DEMO_SOURCE",
            metavar="NAME",
            help="What the topics' names begin with (default: rowcast-demo, with --kafka a new name each time).",
        ),
    ] = None,
) -> int:
    """See it all work on this machine, in seconds, with no server.

    A small shop writes orders through its ORM; relay and worker bring them through Kafka to a replica; then both
    databases are compared row by row. Exit code 0 only if they are equal.
    """
    from rowcast.producer.demo.run import Demo, run_demo

    return run_demo(
        Demo(directory, seconds, seed, kafka=kafka, primary=primary, replica=replica, source=source),
        log_format=invocation.log_format,
    )
