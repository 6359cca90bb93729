"""The commands of the consuming side: worker, verify, status. Heavy imports happen when a command runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.shared.cli.command import Invocation, command
from rowcast.shared.cli.metrics_server import MetricsOption, require_metrics, serve_metrics
from rowcast.shared.cli.progress import DEFAULT_INTERVAL_S, IntervalOption, figures_of, progress, progress_of_each
from rowcast.shared.cli.signals import stop_on_signals
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.process_end import end_process_soon

if TYPE_CHECKING:
    from rowcast.consumer.worker.progress import WorkerProgress
    from rowcast.shared.config.settings import Settings
    from rowcast.shared.watchdog import Watchdog

_log = logging.getLogger("rowcast.worker")
_verify_log = logging.getLogger("rowcast.verify")

ReplicaArgument = Annotated[
    str,
    typer.Argument(metavar="REPLICA", envvar="ROWCAST_REPLICA", help=r"\[replicas.NAME] in the configuration."),
]

SkipOption = Annotated[
    list[str] | None,
    typer.Option(
        "--skip",
        envvar="ROWCAST_SKIP",
        metavar="TX|TOPIC:PARTITION:OFFSET",
        help="Leave out a transaction, by its id, or a message. The error that stops a worker names the value. "
        "May be repeated.",
    ),
]

SkipTransactionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--skip-transaction",
        envvar="ROWCAST_SKIP_TRANSACTION",
        metavar="TX",
        help="The same as --skip TX. May be repeated.",
    ),
]


@command()
def worker(
    invocation: Invocation,
    replica: Annotated[
        list[str] | None,
        typer.Argument(metavar="REPLICA...", envvar="ROWCAST_REPLICA", help=r"\[replicas.NAME] in the configuration."),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", envvar="ROWCAST_ALL", help="Apply to every replica of the configuration.")
    ] = False,
    once: Annotated[
        bool,
        typer.Option("--once", envvar="ROWCAST_ONCE", help="Apply up to the present ends of the topics, then exit."),
    ] = False,
    skip: SkipOption = None,
    skip_transaction: SkipTransactionOption = None,
    progress_interval: IntervalOption = DEFAULT_INTERVAL_S,
    metrics: MetricsOption = None,
) -> int:
    """Apply the topics to a replica, or to several.

    Start as many workers as you like. For each replica, a single worker is active. The rest stand by and take over when
    the active worker ends. SIGTERM and Ctrl-C finish the current batch.
    """
    from rowcast.consumer.reading.skips import transactions_of
    from rowcast.consumer.running.multi_replica import run_workers
    from rowcast.consumer.running.run_worker import run_worker
    from rowcast.shared.vitals import Vitals
    from rowcast.shared.watchdog import watchdogs

    if not replica and not all_:
        raise ConfigurationError("Missing argument 'REPLICA'. Name a replica of the configuration, or give --all.")
    if replica and all_:
        raise ConfigurationError("--all is every replica. Leave the names out, or leave --all out.")
    settings = invocation.settings()
    names = replica or list(settings.replicas)
    if not names:
        raise ConfigurationError("no replica is configured. Add a [replicas.NAME] section with its url.")
    skipped = [*(skip or ()), *transactions_of(skip_transaction or ())]
    if skipped and len(names) > 1:
        raise ConfigurationError("--skip is for a single replica. Name one.")
    vitals = [Vitals(f"the worker of replica {name!r}", {"source": settings.source, "replica": name}) for name in names]
    with (
        progress_of_each(
            "applied", figures_of, len(names), log=_log, log_format=invocation.log_format, interval=progress_interval
        ) as shown,
        watchdogs(((one, settings.watchdog) for one in vitals), end_process_soon) as dogs,
        _with_metrics(metrics, settings, names, shown, dogs) as on_progress,
        stop_on_signals() as stop,
    ):
        if len(names) > 1:
            return run_workers(settings, names, once=once, stop=stop, on_progress=on_progress, vitals=vitals)
        (name,), (moved,), (beat,) = names, on_progress, vitals
        run_worker(settings, name, once=once, stop=stop, on_progress=moved, vitals=beat, skip=skipped)
    return 0


@contextmanager
def _with_metrics(
    address: str | None,
    settings: Settings,
    names: Sequence[str],
    shown: Sequence[Callable[[WorkerProgress], None]],
    dogs: Sequence[Watchdog],
) -> Iterator[Sequence[Callable[[WorkerProgress], None]]]:
    """Yield a callback for each replica that shows progress. With an address, serve metrics and the health too."""
    if address is None:
        yield shown
        return
    require_metrics()
    from rowcast.consumer.status.lag import replica_status
    from rowcast.consumer.worker.metrics import WorkerMetrics, together

    metrics = [WorkerMetrics(settings.source, name, partial(replica_status, settings, name)) for name in names]

    def both(show: Callable[[WorkerProgress], None], own: WorkerMetrics, progress: WorkerProgress) -> None:
        show(progress)
        own.moved(progress)

    with serve_metrics(address, together(metrics), dogs):
        yield [partial(both, show, own) for show, own in zip(shown, metrics, strict=True)]


@command()
def verify(
    invocation: Invocation,
    replica: ReplicaArgument,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            envvar="ROWCAST_TABLE",
            metavar="PATTERN",
            help="Compare only tables that match, as in public.ord*. May be repeated.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="Print the result as JSON.")] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            envvar="ROWCAST_REPAIR",
            help="Send the primary's rows again where rows differ, and deletes of extra rows, through the outbox. "
            "Every replica gets them.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", envvar="ROWCAST_DRY_RUN", help="With --repair: only say what would be sent."),
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            envvar="ROWCAST_VERIFY_WAIT",
            metavar="SECONDS",
            min=0,
            help="Wait this long in all for a replica that is behind.",
        ),
    ] = 30.0,
    max_rate: Annotated[
        int | None,
        typer.Option(
            "--max-rate",
            envvar="ROWCAST_MAX_RATE",
            metavar="ROWS",
            min=1,
            help="Read at most this many rows in a second from each database.",
        ),
    ] = None,
    progress_interval: IntervalOption = DEFAULT_INTERVAL_S,
) -> int:
    """Compare a replica with the primary, row by row, while both are live.

    Rows that seem to differ are compared at one position of the source, so that a row that changes all the time does
    not count. Exit code 0: the rows are equal, or equal after --repair. Exit code 1: rows differ and the output names
    them, the replica is behind, or no rows could be compared.
    """
    from rowcast.consumer.status.lag import letters_of
    from rowcast.consumer.verification.comparison import verify as compare
    from rowcast.consumer.verification.recording import record_result
    from rowcast.consumer.verification.repair import repair_differences
    from rowcast.consumer.verification.report import progress_figures, report

    if dry_run and not repair:
        raise ConfigurationError("--dry-run belongs to --repair. Add --repair, or leave --dry-run out.")
    settings = invocation.relay_settings()
    with progress(
        "comparing", progress_figures, log=_verify_log, log_format=invocation.log_format, interval=progress_interval
    ) as on_progress:
        result = compare(
            settings, replica, tables=table or None, on_progress=on_progress, wait_s=wait, max_rate=max_rate
        )
    if repair:
        result = repair_differences(settings, replica, result, dry_run=dry_run, wait_s=wait)
    if not table and (reason := record_result(settings, replica, result)) is not None:
        _verify_log.info("the result could not be stored in the replica, for rowcast status: %s", reason)
    if not result.equal and (letters := letters_of(settings, replica)).events:
        _verify_log.warning(
            "%d events wait in the dead letter topic of replica %s. Their rows differ, also from what --repair sends, "
            "until the letters are settled: rowcast dlq list %s", letters.events, replica, replica,
        )  # fmt: skip
    return report(result, as_json=as_json)


@command()
def status(
    invocation: Invocation,
    as_json: Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="Print the figures as JSON.")] = False,
    json_schema: Annotated[
        bool,
        typer.Option(
            "--json-schema", envvar="ROWCAST_JSON_SCHEMA", help="Print the JSON schema of --json, and read no server."
        ),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", envvar="ROWCAST_WATCH", help="Show the status again and again until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float,
        typer.Option("--interval", envvar="ROWCAST_INTERVAL", metavar="SECONDS", min=0.1, help="Pause of --watch."),
    ] = 2.0,
    max_behind: Annotated[
        float,
        typer.Option(
            "--max-behind",
            envvar="ROWCAST_MAX_BEHIND",
            metavar="SECONDS",
            min=0,
            help="A commit that a replica has lacked for longer is a problem.",
        ),
    ] = 60.0,
) -> int:
    """Say whether everything is all right, and show relay, outbox, snapshots, replicas and workers.

    The first line is the verdict. Exit code 0: everything is all right. 1: something is not, and the first lines name
    it with the next step. 3: a server does not answer, and the figures of the others are shown.
    """
    from rowcast.consumer.status import report
    from rowcast.shared.cli.output import print_json
    from rowcast.shared.cli.status_document import status_schema

    if json_schema:
        print_json(status_schema())
        return 0
    settings = invocation.settings()
    if not watch:
        return report.report(settings, as_json=as_json, max_behind_s=max_behind)
    if as_json:
        raise ConfigurationError("--json and --watch exclude each other. Choose one.")
    with stop_on_signals() as stop:
        return report.watch(settings, stop, max_behind_s=max_behind, interval_s=interval)
