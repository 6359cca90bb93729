"""Define ``rowcast rebuild``. Heavy imports happen when the command runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.consumer.commands import ReplicaArgument, SkipOption
from rowcast.shared.cli.command import Invocation, command
from rowcast.shared.cli.progress import DEFAULT_INTERVAL_S, Figures, IntervalOption, progress
from rowcast.shared.cli.signals import stop_on_signals
from rowcast.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from rowcast.consumer.rebuild.options import RebuildResult
    from rowcast.consumer.rebuild.progress import RebuildProgress

_log = logging.getLogger("rowcast.rebuild")


def _rebuild_figures(state: RebuildProgress) -> Figures:
    """Return the figures of a rebuild, short enough for a line of 80 columns."""
    values: dict[str, object] = {"phase": state.phase}
    if state.total:
        values["read"] = f"{100 * state.records // state.total} %"
    values["per_s"] = state.per_s
    if state.left_s is not None:
        values["left"] = f"{state.left_s // 60}:{state.left_s % 60:02}"
    return Figures(values)


@command()
def rebuild(
    invocation: Invocation,
    replica: ReplicaArgument,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "--tables",
            envvar="ROWCAST_REBUILD_TABLES",
            metavar="PATTERN",
            help="Rebuild only the tables that match, as in orders,public.ite*, with commas between patterns. "
            "May be repeated.",
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option("--into", envvar="ROWCAST_INTO", metavar="URL", help="Fill the tables in another database."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            envvar="ROWCAST_UNTIL",
            metavar="TIME|TRANSACTION|lsn:N",
            help="With --into: end after the last transaction that was committed by this time (as in 2h, which is two "
            "hours ago, or 2026-11-30T14:00, which is UTC without a zone), or after this transaction.",
        ),
    ] = None,
    no_verify: Annotated[
        bool,
        typer.Option("--no-verify", envvar="ROWCAST_NO_VERIFY", help="Swap without a comparison with the primary."),
    ] = False,
    keep_old: Annotated[
        bool,
        typer.Option("--keep-old", envvar="ROWCAST_KEEP_OLD", help="Keep the old tables, as rowcast_old_TABLE."),
    ] = False,
    drop_old: Annotated[
        bool,
        typer.Option("--drop-old", envvar="ROWCAST_DROP_OLD", help="Only drop the tables that --keep-old has kept."),
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", envvar="ROWCAST_RESTART", help="Begin an unfinished rebuild again from the start."),
    ] = False,
    snapshot: Annotated[
        bool,
        typer.Option("--snapshot", envvar="ROWCAST_SNAPSHOT", help="First publish all rows again, through the relay."),
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            envvar="ROWCAST_PROCESSES",
            min=1,
            max=64,
            help="Fill the tables with this many processes. Without a number: one for each processor, if the topics "
            "hold enough records to save time.",
        ),
    ] = None,
    skip: SkipOption = None,
    progress_interval: IntervalOption = DEFAULT_INTERVAL_S,
) -> None:
    """Rebuild a replica from the topics alone, beside its tables.

    The topics are read from the start into fresh tables, which are compared with the primary and then take the place of
    the old tables, all at once. Readers use the old tables until then, and workers may run. After any interruption the
    same command goes on where it was.
    """
    from rowcast.consumer.rebuild.old_tables import drop_old_tables
    from rowcast.consumer.rebuild.options import RebuildOptions
    from rowcast.consumer.rebuild.rebuild import rebuild as rebuild_beside
    from rowcast.consumer.rebuild.rebuild_elsewhere import rebuild_into

    settings = invocation.relay_settings()
    if drop_old:
        dropped = drop_old_tables(settings, replica)
        typer.echo(f"dropped: {', '.join(dropped)}" if dropped else "no old tables")
        return
    if into is not None and (keep_old or restart or tables):
        raise ConfigurationError(
            "--into excludes --keep-old, --restart and --tables. A database with some of the tables only is a replica "
            "of its own: set `tables` in [replicas.NAME]."
        )
    if until is not None:
        _require_elsewhere(into, snapshot=snapshot)
    patterns = tuple(pattern.strip() for one in tables or () for pattern in one.split(",") if pattern.strip())
    options = RebuildOptions(
        keep_old=keep_old,
        restart=restart,
        is_verified=not no_verify and until is None,
        skip=skip or (),
        with_snapshot=snapshot,
        tables=patterns,
        until=until,
        processes=processes,
    )
    with (
        progress(
            "rebuilding",
            _rebuild_figures,
            log=_log,
            log_format=invocation.log_format,
            interval=progress_interval,
        ) as on_progress,
        stop_on_signals() as stop,
    ):
        if into is None:
            result = rebuild_beside(settings, replica, options, stop=stop, on_progress=on_progress)
        else:
            result = rebuild_into(settings, replica, into, options, stop=stop, on_progress=on_progress)
    typer.echo(_summary(result))


def _require_elsewhere(into: str | None, *, snapshot: bool) -> None:
    """Raise ConfigurationError unless ``--until`` can be fulfilled with these options."""
    if into is None:
        raise ConfigurationError(
            "--until needs --into with an empty database, because the replica itself must not go back in time."
        )
    if snapshot:
        raise ConfigurationError("--until excludes --snapshot, which leaves out everything before the present.")


def _summary(result: RebuildResult) -> str:
    verified = "not compared" if result.verified_rows is None else f"{result.verified_rows:,} rows equal"
    moment = "" if result.moment is None else f" as of {result.moment}"
    return f"rebuilt {len(result.tables)} tables{moment} from {result.records:,} records, {verified}"
