"""Define the commands demo, check, relay and snapshot.

Commands import Kafka clients and the demo when they run. Help and completion stay quick, and a
missing extra concerns only the commands with a use for the extra.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.producer.cli.metadata_option import METADATA, load_metadata
from rowcast.shared.cli.command import Invocation, command
from rowcast.shared.cli.metrics_server import MetricsOption, require_metrics, serve_metrics
from rowcast.shared.cli.progress import DEFAULT_INTERVAL_S, IntervalOption, figures_of, progress, progress_of_each
from rowcast.shared.cli.signals import stop_on_signals
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.process_end import end_process_soon
from rowcast.shared.process_tuning import tune_interpreter

if TYPE_CHECKING:
    from rowcast.producer.relay import OnProgress, RelayProgress
    from rowcast.shared.config.settings import Settings
    from rowcast.shared.watchdog import Watchdog

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
    new_timeline: Annotated[
        int | None,
        typer.Option(
            "--new-timeline",
            envvar="ROWCAST_NEW_TIMELINE",
            metavar="NUMBER",
            min=2,
            help="Go on after the primary or Kafka has lost something, under the timeline of this number, which the "
            "error names. The replicas must be rebuilt. On that timeline already, the option has no effect.",
        ),
    ] = None,
) -> int:
    """Publish the outbox to Kafka.

    Start several relays if you like: one leads, and another takes over when it ends. SIGTERM and Ctrl-C stop the relay
    after the current batch. With several --config, one process serves several sources.
    """
    from rowcast.producer.relay import run_relay, run_relays
    from rowcast.shared.vitals import Vitals
    from rowcast.shared.watchdog import watchdogs

    settings = invocation.settings_of_each()
    if new_timeline is not None and len(settings) > 1:
        raise ConfigurationError("--new-timeline is for a single source. Give one --config.")
    vitals = [Vitals(f"the relay of source {each.source!r}", {"source": each.source}) for each in settings]
    with (
        watchdogs(zip(vitals, (each.watchdog for each in settings), strict=True), end_process_soon) as dogs,
        progress_of_each(
            "published", figures_of, len(settings),
            log=_log, log_format=invocation.log_format, interval=progress_interval,
        ) as shown,
        _with_metrics(metrics, settings, shown, dogs) as moved,
        stop_on_signals() as stop,
        tune_interpreter(),
    ):  # fmt: skip
        if len(settings) > 1:
            return run_relays(list(zip(invocation.configs, settings, strict=True)), once, stop, moved, vitals)
        run_relay(settings[0], once, stop, moved[0], vitals[0], new_timeline=new_timeline)
    return 0


@contextmanager
def _with_metrics(
    address: str | None, settings: Sequence[Settings], shown: Sequence[OnProgress], dogs: Sequence[Watchdog]
) -> Iterator[Sequence[OnProgress]]:
    """Serve the progress as metrics too, and the health of the process, if an address is given."""
    if address is None:
        yield shown
        return
    require_metrics()
    from rowcast.producer.relay.metrics import RelayMetrics

    metrics = RelayMetrics(settings)

    def both(show: OnProgress, progress: RelayProgress) -> None:
        show(progress)
        metrics.moved(progress)

    with serve_metrics(address, metrics, dogs):
        yield [partial(both, show) for show in shown]


@command()
def snapshot(
    invocation: Invocation,
    table: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TABLE]...", envvar="ROWCAST_TABLE", help="The tables (default: all captured tables)."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            envvar="ROWCAST_WHERE",
            metavar="SQL",
            help="Read only the rows for which this SQL condition is true.",
        ),
    ] = None,
    chunk_size: Annotated[
        int,
        typer.Option("--chunk-size", envvar="ROWCAST_CHUNK_SIZE", metavar="ROWS", min=1, help="Rows in a chunk."),
    ] = CHUNK_ROWS,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", envvar="ROWCAST_WAIT", help="Wait until the snapshot is published.")
    ] = True,
    pause: Annotated[
        bool, typer.Option("--pause", envvar="ROWCAST_PAUSE", help="Pause running snapshots, and request none.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", envvar="ROWCAST_RESUME", help="Resume paused snapshots.")] = False,
    stop: Annotated[
        bool,
        typer.Option("--stop", envvar="ROWCAST_STOP", help="Stop open snapshots for good, and forget failed ones."),
    ] = False,
    progress_interval: IntervalOption = DEFAULT_INTERVAL_S,
) -> int:
    """Publish the existing rows of tables while the application writes.

    The leading relay reads the rows chunk by chunk and resumes after a crash. Exit code 0: all snapshots are published.
    1: a snapshot failed, and the log names the reason. Ctrl-C ends the waiting, not the snapshot.
    """
    from rowcast.producer.cli.snapshot_client import SnapshotClient
    from rowcast.producer.outbox.snapshot_requests import SnapshotState

    changes = [name for name, wanted in (("pause", pause), ("resume", resume), ("stop", stop)) if wanted]
    if len(changes) > 1:
        raise ConfigurationError(f"--{' and --'.join(changes)} exclude each other. Choose one.")
    requests = SnapshotClient(invocation.relay_settings())
    try:
        if changes:
            count = requests.change(changes[0], table or ())
            _snapshot_log.info("%s: %d snapshots", changes[0], count)
            return 0 if count else 1
        ids = requests.request(table or (), where, chunk_size)
        if not wait:
            return 0
        with (
            progress(
                "snapshot", figures_of, log=_snapshot_log, log_format=invocation.log_format, interval=progress_interval
            ) as moved,
            stop_on_signals() as stopping,
        ):
            found = requests.wait(ids, stopping, moved)
    finally:
        requests.close()
    for snapshot_ in found:
        if snapshot_.reason is None:
            _snapshot_log.info("%s: %s, %d rows", snapshot_.table, snapshot_.state, snapshot_.rows_read)
        else:
            _snapshot_log.error("%s: %s", snapshot_.table, snapshot_.reason)
    return 1 if any(snapshot_.state is SnapshotState.failed for snapshot_ in found) else 0


@command()
def check(
    invocation: Invocation,
    as_json: Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="Print the findings as JSON.")] = False,
    metadata: Annotated[
        str | None,
        typer.Option(
            METADATA[0],
            envvar=METADATA[1],
            metavar=METADATA[2],
            help="The application's MetaData or declarative base after a migration: say what the migration will do to "
            "each replica.",
        ),
    ] = None,
    alembic: Annotated[
        Path | None,
        typer.Option(
            "--alembic",
            envvar="ROWCAST_ALEMBIC",
            metavar="PATH",
            help="An alembic.ini: as --metadata, with the target_metadata of its env.py. Also check that the models "
            "name the renames of the migrations that the primary does not have yet.",
        ),
    ] = None,
) -> int:
    """Check all databases and Kafka of the configuration, and say what is missing and how to add it.

    Exit code 0: no problems. 1: a table, column, topic or trigger is missing. 2: the configuration is wrong. 3: a
    server does not answer.
    """
    from rowcast.producer.checks.planned_shapes import planned_by_alembic, planned_by_models
    from rowcast.producer.checks.report import report

    if metadata is not None and alembic is not None:
        raise ConfigurationError("--alembic has the models already. Leave --metadata out.")
    planned = None if metadata is None else planned_by_models(load_metadata(metadata))
    if alembic is not None:
        planned = planned_by_alembic(alembic)
    return report(invocation.settings(), as_json=as_json, planned=planned)


@command(config="none")
def demo(
    invocation: Invocation,
    directory: Annotated[
        Path,
        typer.Option(
            "--directory", envvar="ROWCAST_DEMO_DIRECTORY", metavar="PATH", help="Directory for the databases and logs."
        ),
    ] = Path("rowcast-demo"),
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            envvar="ROWCAST_DEMO_SECONDS",
            min=0.5,
            help="Duration of the shop's traffic before rows are changed by hand.",
        ),
    ] = 7.0,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            envvar="ROWCAST_DEMO_SEED",
            help="Seed of the traffic.",
        ),
    ] = 1,
    kafka: Annotated[
        str | None,
        typer.Option(
            "--kafka",
            envvar="ROWCAST_DEMO_KAFKA",
            metavar="HOST:PORT",
            help="Brokers of a real Kafka (default: the embedded Kafka in this process).",
        ),
    ] = None,
    primary: Annotated[
        str | None,
        typer.Option(
            "--primary",
            envvar="ROWCAST_DEMO_PRIMARY",
            metavar="URL",
            help="The shop's database. The demo replaces its own tables there (default: an SQLite file).",
        ),
    ] = None,
    replica: Annotated[
        str | None,
        typer.Option(
            "--replica",
            envvar="ROWCAST_DEMO_REPLICA",
            metavar="URL",
            help="The replica, of any engine. The demo replaces its own tables there (default: an SQLite file).",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            envvar="ROWCAST_DEMO_SOURCE",
            metavar="NAME",
            help="Prefix of the topics (default: rowcast-demo, or a new name for each run with --kafka).",
        ),
    ] = None,
) -> int:
    """Show the whole pipeline on this machine in half a minute, without a server.

    A small shop writes orders through its ORM. Relay and workers carry them through Kafka to a replica. Meanwhile the
    active worker is killed with kill -9, rows of the replica are changed by hand, found and repaired, and the whole
    replica is deleted and rebuilt from the topics. In the end both databases are compared row by row. Exit code 0 only
    if every promise was kept.
    """
    from rowcast.producer.demo.run import Demo, run_demo

    return run_demo(
        Demo(directory, seconds, seed, kafka=kafka, primary=primary, replica=replica, source=source),
        log_format=invocation.log_format,
    )
