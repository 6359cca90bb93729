"""Find the conditions in a status to alert people of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rowcast.shared.cli.durations import duration_text
from rowcast.shared.cli.status_document import NoAnswer, OutboxDocument, ReplicaDocument, StatusDocument
from rowcast.shared.config.alert_settings import AlertSettings
from rowcast.shared.config.settings import Settings

_PRIMARY = "the primary"


@dataclass(frozen=True, slots=True)
class Condition:
    """A fault in a status. ``kind`` and ``subject`` identify the condition, and ``message`` may change.

    ``known_from``: the server with the evidence. ``is_silent``: the server does not answer, so the rest of its state is
    unknown.
    """

    kind: str
    subject: str
    message: str
    known_from: str = ""
    is_silent: bool = False

    @property
    def identity(self) -> tuple[str, str]:
        """Return the kind and the subject, which stay while the condition holds."""
        return self.kind, self.subject


def conditions(settings: Settings, status: StatusDocument) -> list[Condition]:
    """Return the conditions of a status."""
    limits = settings.alerts
    found: list[Condition] = []
    match status.outbox:
        case NoAnswer(error=error):
            found.append(Condition("primary unreachable", "the primary", error, is_silent=True))
        case OutboxDocument() as outbox:
            found += _of_outbox(limits, outbox)
    for snapshot in status.snapshots:
        if snapshot.state == "failed":
            found.append(Condition("snapshot failed", f"table {snapshot.table}", f"{snapshot.reason}"))
    found = [replace(condition, known_from=_PRIMARY) for condition in found]
    for name, replica in status.replicas.items():
        subject = f"replica {name}"
        match replica:
            case NoAnswer(error=error):
                of_replica = [Condition("replica unreachable", subject, error, is_silent=True)]
            case ReplicaDocument():
                of_replica = list(_of_replica(limits, subject, replica, settings.replica(name).due_after_s))
        found += [replace(condition, known_from=subject) for condition in of_replica]
    return found


def _of_outbox(limits: AlertSettings, outbox: OutboxDocument) -> Iterator[Condition]:
    subject = "the outbox"
    oldest_ms = outbox.oldest_ms or 0
    if outbox.rows and not outbox.leading:
        yield Condition("no relay", subject, f"no relay leads, and {outbox.rows:,} rows wait. Start `rowcast relay`")
    if limits.outbox_age and oldest_ms > limits.outbox_age * 1_000:
        yield Condition("outbox age", subject, f"a commit has waited for {duration_text(oldest_ms)}")
    if limits.outbox_rows and outbox.rows >= limits.outbox_rows:
        yield Condition("outbox rows", subject, f"{outbox.rows:,} rows wait")
    if outbox.parked:
        parked = f"{outbox.parked:,} transactions are parked: `rowcast dlq list`"
        yield Condition("parked transactions", subject, parked)


def _of_replica(
    limits: AlertSettings, subject: str, replica: ReplicaDocument, due_after_s: float
) -> Iterator[Condition]:
    if replica.state in ("stopped", "suspect"):
        yield Condition(f"replica {replica.state}", subject, replica.reason or f"it is {replica.state}")
    elif replica.workers == 0 and replica.records:
        yield Condition("no worker", subject, f"no worker runs, and {replica.records:,} records wait")
    if limits.behind and replica.behind_ms > (limits.behind + due_after_s) * 1_000:
        yield Condition("replica behind", subject, f"it lacks a commit of {duration_text(replica.behind_ms)} ago")
    if replica.dead_letters.events:
        letters = replica.dead_letters
        lacks = f"it lacks {letters.transactions:,} transactions ({letters.events:,} events), which it refused"
        yield Condition("dead letters", subject, f"{lacks}: `rowcast dlq list`")
    if replica.verified is not None and replica.verified.differing:
        rows = f"{replica.verified.differing:,} rows differed from the primary at the last comparison"
        yield Condition("rows differ", subject, rows)
