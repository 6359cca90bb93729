"""Define ``rowcast migrate``. Heavy imports happen when the command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from rowcast.consumer.commands import ReplicaArgument
from rowcast.shared.cli.command import Invocation, command
from rowcast.shared.cli.signals import stop_on_signals


@command()
def migrate(
    invocation: Invocation,
    replica: ReplicaArgument,
    apply: Annotated[
        bool, typer.Option("--apply", envvar="ROWCAST_APPLY", help="Change the tables, while the workers stand by.")
    ] = False,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            "--drop",
            envvar="ROWCAST_DROP",
            metavar="SCHEMA.TABLE.COLUMN",
            help="Also drop columns that the source does not have any more, with their values. A shell pattern, as in "
            "public.orders.old_*. May be repeated.",
        ),
    ] = None,
) -> int:
    """Show what the tables of a replica lack against the newest shapes of the source, as DDL.

    With --apply, the tables are changed in the way of a worker whose setting is `evolution = "evolve"`. Tables that
    existed before the worker follow too. Exit code 0: nothing is left to do. 1: something is.
    """
    from rowcast.consumer.migration.migrate import migrate as migrate_replica
    from rowcast.consumer.migration.report import report

    settings = invocation.settings()
    with stop_on_signals() as stop:
        migration = migrate_replica(settings, replica, apply=apply, drop=drop or (), stop=stop)
    for line in report(migration):
        typer.echo(line)
    return 0 if migration.is_complete else 1
