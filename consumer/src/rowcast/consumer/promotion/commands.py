"""Define the command ``rowcast promote``. Heavy imports happen when the command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from rowcast.consumer.commands import ReplicaArgument
from rowcast.shared.cli.command import Invocation, command
from rowcast.shared.cli.signals import stop_on_signals


@command()
def promote(
    invocation: Invocation,
    replica: ReplicaArgument,
    accept_lost: Annotated[
        str | None,
        typer.Option(
            "--accept-lost",
            envvar="ROWCAST_ACCEPT_LOST",
            metavar="RECORDS",
            help="Promote a replica that lacks at most this many records of the topics. `unknown`: any number, also "
            "while Kafka does not answer.",
        ),
    ] = None,
    accept_partial: Annotated[
        bool,
        typer.Option(
            "--accept-partial",
            envvar="ROWCAST_ACCEPT_PARTIAL",
            help="Promote a replica with masked values, or with a part of a table's rows.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="ROWCAST_DRY_RUN", help="Only print the statements.")
    ] = False,
) -> None:
    """Make a replica a primary that takes writes at once.

    The workers of the replica end for good. Its tables get the counters, defaults, indexes and the actions of foreign
    keys that the source has, and the outbox tables are created. The output says what to do next. After any
    interruption the same command goes on where it was.
    """
    from rowcast.consumer.promotion.promote import PromotionOptions
    from rowcast.consumer.promotion.promote import promote as promote_replica
    from rowcast.consumer.promotion.report import report

    settings = invocation.relay_settings()
    options = PromotionOptions(accept_lost, accept_partial, dry_run)
    with stop_on_signals() as stop:
        result = promote_replica(settings, replica, options, stop=stop)
    for line in report(settings, result, dry_run=dry_run):
        typer.echo(line)
