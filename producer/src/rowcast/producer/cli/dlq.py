"""Define the commands of ``rowcast dlq``: list, show, retry, drop. Commands import their modules when they run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.shared.cli.command import Invocation, command, command_group
from rowcast.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from rowcast.producer.parking.parked import ParkedTransactions

_log = logging.getLogger("rowcast.dlq")

dlq = command_group("dlq", "Handle the transactions that the relay could not publish and parked.")

SourceOption = Annotated[
    bool,
    typer.Option("--source", envvar="ROWCAST_DLQ_SOURCE", help="The parked transactions of the relay, in the primary."),
]
JsonOption = Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="Print the result as JSON.")]
Transactions = Annotated[
    list[str],
    typer.Argument(metavar="TX...", envvar="ROWCAST_TX", help="Ids, from rowcast dlq list --source."),
]


@dlq.command("list")
@command()
def list_(invocation: Invocation, source: SourceOption = False, as_json: JsonOption = False) -> int:
    """List the parked transactions with the reasons.

    Exit code 1: at least one transaction is parked.
    """
    from rowcast.producer.parking.report import report_transactions

    with _parked(invocation, source) as parked:
        return report_transactions(parked.all(), as_json=as_json)


@dlq.command("show")
@command()
def show(
    invocation: Invocation,
    tx: Annotated[str, typer.Argument(metavar="TX", envvar="ROWCAST_TX", help="Id, from rowcast dlq list.")],
    source: SourceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the changes of a parked transaction as the capture wrote them."""
    from rowcast.producer.parking.report import report_rows

    with _parked(invocation, source) as parked:
        report_rows(parked.rows(tx), as_json=as_json)


@dlq.command("retry")
@command()
def retry(invocation: Invocation, tx: Transactions, source: SourceOption = False) -> None:
    """Publish the current state of the rows that parked transactions changed.

    The parked row images may be older than the published ones, so the command locks each row and reads it again. The
    relay publishes the rows as a new transaction after all others.
    """
    with _parked(invocation, source) as parked:
        for one in tx:
            rows = parked.retry(one)
            _log.info("transaction %s: the current state of %d rows is in the outbox", one, rows, extra={"tx": one})


@dlq.command("drop")
@command()
def drop(invocation: Invocation, tx: Transactions, source: SourceOption = False) -> None:
    """Delete parked transactions. Their changes will be missing on the replicas."""
    with _parked(invocation, source) as parked:
        parked.drop(tx)
    _log.info("dropped: %s", ", ".join(tx))


@contextmanager
def _parked(invocation: Invocation, source: bool) -> Iterator[ParkedTransactions]:
    if not source:
        raise ConfigurationError(
            "missing option --source. Only parked transactions of the relay can be handled, because replicas have no "
            "dead letter queue yet."
        )
    from rowcast.producer.parking.parked import ParkedTransactions

    parked = ParkedTransactions(invocation.settings())
    try:
        yield parked
    finally:
        parked.close()
