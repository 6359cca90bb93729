"""``rowcast dlq``: list, show, retry, drop. Imports wait until a command runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.shared.errors import ConfigurationError
from rowcast.shared.options import Invocation, command, command_group

if TYPE_CHECKING:
    from rowcast.producer.parked import Parked

_log = logging.getLogger("rowcast.dlq")

dlq = command_group("dlq", "Transactions that the relay could not publish, and has parked.")

SourceOption = Annotated[
    bool,
    typer.Option("--source", envvar="ROWCAST_DLQ_SOURCE", help="What the relay has parked, in the primary's database."),
]
JsonOption = Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="The result as JSON.")]
Transactions = Annotated[
    list[str], typer.Argument(metavar="TX...", envvar="ROWCAST_TX", help="Their ids, as in rowcast dlq list --source.")
]


@dlq.command("list")
@command()
def list_(invocation: Invocation, source: SourceOption = False, as_json: JsonOption = False) -> int:
    """List the transactions that are parked, with the reasons.

    Exit code 1: there are some.
    """
    from rowcast.producer.parked_report import report_all

    with _parked(invocation, source) as parked:
        return report_all(parked.all(), as_json=as_json)


@dlq.command("show")
@command()
def show(
    invocation: Invocation,
    tx: Annotated[str, typer.Argument(metavar="TX", envvar="ROWCAST_TX", help="Its id, as in rowcast dlq list.")],
    source: SourceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show a parked transaction's changes, as the capture wrote them."""
    from rowcast.producer.parked_report import report_one

    with _parked(invocation, source) as parked:
        report_one(parked.rows(tx), as_json=as_json)


@dlq.command("retry")
@command()
def retry(invocation: Invocation, tx: Transactions, source: SourceOption = False) -> None:
    """Have the rows that parked transactions changed published, as they are now.

    Their images may be older than what was published since. So each row is read again, under its lock; the relay
    publishes them as a new transaction, behind all others.
    """
    with _parked(invocation, source) as parked:
        for one in tx:
            rows = parked.retry(one)
            _log.info("transaction %s: its %d rows, as they are now, are in the outbox", one, rows, extra={"tx": one})


@dlq.command("drop")
@command()
def drop(invocation: Invocation, tx: Transactions, source: SourceOption = False) -> None:
    """Forget parked transactions: the replicas lack their changes."""
    with _parked(invocation, source) as parked:
        parked.drop(tx)
    _log.info("dropped: %s", ", ".join(tx))


@contextmanager
def _parked(invocation: Invocation, source: bool) -> Iterator[Parked]:
    if not source:
        raise ConfigurationError(
            "whose? Say --source: what the relay has parked. Replicas have no queue in this version."
        )
    from rowcast.producer.parked import Parked

    parked = Parked(invocation.settings())
    try:
        yield parked
    finally:
        parked.close()
