"""Define the commands of ``rowcast dlq``: list, show, retry, drop. Each side contributes its own queue."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from rowcast.shared.cli.command import Invocation, command, command_group
from rowcast.shared.cli.contributions import DEAD_LETTERS, load_contributions
from rowcast.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

dlq = command_group(
    "dlq", "Handle what a replica refused, and with --source the transactions that the relay could not publish."
)

SourceOption = Annotated[
    bool,
    typer.Option("--source", envvar="ROWCAST_DLQ_SOURCE", help="The parked transactions of the relay, in the primary."),
]
JsonOption = Annotated[bool, typer.Option("--json", envvar="ROWCAST_JSON", help="Print the result as JSON.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[REPLICA] [ID...]",
        envvar="ROWCAST_DLQ",
        help="The replica, without --source. Then ids from rowcast dlq list.",
    ),
]


class DeadLetterQueue(Protocol):
    """Handle letters by id. Without ids, handle all letters."""

    def print_list(self, ids: Sequence[str], *, as_json: bool) -> int:
        """Print the letters with the reasons. Return 1 if letters wait, else 0."""

    def print_whole(self, ids: Sequence[str], *, as_json: bool) -> None:
        """Print all details of letters."""

    def retry(self, ids: Sequence[str]) -> int:
        """Try letters again. Return 1 if letters are left, else 0."""

    def drop(self, ids: Sequence[str]) -> None:
        """Give letters up."""


@dlq.command("list")
@command()
def list_(
    invocation: Invocation, names: Names = None, source: SourceOption = False, as_json: JsonOption = False
) -> int:
    """List what waits, with the reasons.

    Exit code 1: something waits.
    """
    queue, ids = _open(invocation, names or [], source=source)
    with queue as opened:
        return opened.print_list(ids, as_json=as_json)


@dlq.command("show")
@command()
def show(
    invocation: Invocation, names: Names = None, source: SourceOption = False, as_json: JsonOption = False
) -> None:
    """Show the events that wait, as they were written."""
    queue, ids = _open(invocation, names or [], source=source)
    with queue as opened:
        opened.print_whole(ids, as_json=as_json)


@dlq.command("retry")
@command()
def retry(invocation: Invocation, names: Names = None, source: SourceOption = False) -> int:
    """Apply what a replica refused, in order. Without ids, try everything.

    The workers of the replica stand by meanwhile. With --source, publish the current state of the rows that parked
    transactions changed. The parked row images may be older than the published ones, so the command locks each row and
    reads it again.

    Exit code 1: something is still refused.
    """
    queue, ids = _open(invocation, names or [], source=source)
    if source and not ids:
        raise ConfigurationError("name the transactions to retry, as rowcast dlq list --source shows them.")
    with queue as opened:
        return opened.retry(ids)


@dlq.command("drop")
@command()
def drop(
    invocation: Invocation,
    names: Names = None,
    source: SourceOption = False,
    everything: Annotated[
        bool, typer.Option("--all", envvar="ROWCAST_DLQ_ALL", help="Drop everything that waits.")
    ] = False,
) -> None:
    """Give up what waits. Its changes will be missing on the replica, and with --source on all replicas."""
    queue, ids = _open(invocation, names or [], source=source)
    if bool(ids) == everything:
        raise ConfigurationError("name what to drop, as rowcast dlq list shows it, or say --all.")
    with queue as opened:
        opened.drop(ids)


def _open(
    invocation: Invocation, names: Sequence[str], *, source: bool
) -> tuple[AbstractContextManager[DeadLetterQueue], Sequence[str]]:
    """Return the queue, and the ids among the arguments."""
    settings = invocation.settings()
    queues: dict[str, Any] = dict(load_contributions(DEAD_LETTERS))
    if source:
        return queues["source"](settings), names
    if not names:
        raise ConfigurationError(
            "missing option --source for the parked transactions of the relay, or the name of a replica."
        )
    settings.replica(names[0])
    return queues["replica"](settings, names[0]), names[1:]
