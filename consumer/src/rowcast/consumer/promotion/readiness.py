"""Refuse to promote a replica that lacks changes of the source, unless the operator allows the number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rowcast.consumer.replica.positions import ReplicaRow
from rowcast.consumer.status.lag import ReplicaStatus, outbox_ms, replica_status
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError, UnreachableError
from rowcast.shared.tables.shape import TableShape

UNKNOWN = "unknown"
"""The value of ``--accept-lost`` with which nobody needs to know what is lost."""


class NotReadyError(DataError):
    """Refuse to promote a replica, because rows would be lost."""


def accepted_records(accept_lost: str | None) -> int | None:
    """Return how many records of the topics may be lost, or None for any number. Raise ConfigurationError."""
    if accept_lost == UNKNOWN:
        return None
    try:
        number = int(accept_lost or "0")
    except ValueError:
        number = -1
    if number < 0:
        raise ConfigurationError(
            f"--accept-lost {accept_lost}: give the number of records that may be lost, or {UNKNOWN!r}."
        )
    return number


def require_vouching(name: str, row: ReplicaRow) -> None:
    """Raise NotReadyError if the rows of the replica are no former state of the primary."""
    if row.state == "consistent":
        return
    if row.state == "suspect":
        reason = f"it is suspect: {row.reason} Promote another replica."
    elif row.state == "following":
        reason = (
            'its workers apply rows without transactions. Set consistency = "transaction", and let '
            f"`rowcast worker {name}` run until it is consistent."
        )
    else:
        reason = (
            "it is loading, so its rows are no state that the primary had. Let "
            f"`rowcast worker {name}` run until it is consistent."
        )
    raise NotReadyError(f"replica {name!r} is not promoted, and nothing was changed: {reason}")


def require_ready(settings: Settings, name: str, accept_lost: str | None) -> str:
    """Return what is lost by a promotion, as text, or "" if nothing is known to be.

    Raise NotReadyError if the replica lacks more than ``accept_lost`` says. Raise UnreachableError if Kafka does not
    answer.
    """
    accepted = accepted_records(accept_lost)
    try:
        status = replica_status(settings, name)
    except UnreachableError as error:
        if accepted is None:
            return f"nobody knows what the topics have in addition: {error}"
        raise UnreachableError(
            f"{error} Without an answer, nobody knows what replica {name!r} lacks. To promote it as it is: "
            f"rowcast promote {name} --accept-lost {UNKNOWN}"
        ) from error
    unpublished_ms = outbox_ms(settings)
    if reason := _refusal(status, accepted, has_unpublished=bool(unpublished_ms)):
        raise NotReadyError(f"replica {name!r} is not promoted, and nothing was changed: {reason}")
    return ", and ".join(_losses(settings, status, unpublished_ms))


def _refusal(status: ReplicaStatus, accepted: int | None, *, has_unpublished: bool) -> str | None:
    name = status.replica
    if accepted is None:
        return None
    if status.letters.events:
        return (
            f"{status.letters.transactions:,} transactions wait in its dead letter topic. Settle them with "
            f"`rowcast dlq retry {name}`, or lose them with `rowcast dlq drop {name} --all`."
        )
    if status.records > accepted:
        lag = ", ".join(f"{lag.topic} {lag.records:,}" for lag in status.topics if lag.records)
        stopped = f" Its worker has stopped: {status.reason}" if status.state == "stopped" else ""
        return (
            f"{status.records:,} records of the topics are not applied ({lag}). Let `rowcast worker {name}` apply "
            f"them, or lose them: --accept-lost {status.records}.{stopped}"
        )
    if not has_unpublished:
        return None
    return (
        "the primary's outbox has commits that are not published yet. Stop the application, and let the relay and "
        f"`rowcast worker {name}` finish, or lose them: --accept-lost {UNKNOWN}."
    )


def _losses(settings: Settings, status: ReplicaStatus, unpublished_ms: int | None) -> Iterator[str]:
    if status.records:
        yield f"{status.records:,} records of the topics are lost"
    if unpublished_ms is None and settings.primary is not None:
        yield "the primary does not answer, so commits that its relay had not published are lost"
    elif unpublished_ms:
        yield "commits in the primary's outbox are lost"


def require_whole(
    settings: Settings, name: str, shapes: Sequence[TableShape], gone: Sequence[TableShape], *, accept_partial: bool
) -> None:
    """Raise NotReadyError for a replica with masked values or a part of the rows, unless the operator agrees.

    ``gone``: the tables filled by a worker and missing now.
    """
    patterns = settings.replica(name).tables
    parts = [] if "*" in patterns else [f"the configuration limits it to the tables {', '.join(patterns)}"]
    parts += [f"table {shape.full_name} is gone" for shape in gone]
    parts += [f"{shape.full_name} has only the rows WHERE {shape.where}" for shape in shapes if shape.where]
    parts += [
        f"{shape.full_name}.{column.name} is masked"
        for shape in shapes
        for column in shape.columns
        if column.masking is not None
    ]
    parts += [
        f"{shape.full_name} is without {', '.join(shape.view.left_out)}"
        for shape in shapes
        if shape.view is not None and shape.view.left_out
    ]
    if renamed := [shape.full_name for shape in shapes if shape.view is not None and shape.view.renames]:
        raise NotReadyError(
            f"replica {name!r} is not promoted, and nothing was changed: its view renames {', '.join(renamed)} or "
            "columns there, so the application would not find them. Promote another replica."
        )
    if parts and not accept_partial:
        listed = "\n".join(f"- {part}." for part in parts)
        raise NotReadyError(
            f"replica {name!r} is not promoted, and nothing was changed: it does not have all that the primary has:\n"
            f"{listed}\nPromote another replica, or this one with --accept-partial."
        )
