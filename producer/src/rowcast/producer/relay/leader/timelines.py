"""Notice a loss of data in the primary or in Kafka alone, and begin a new timeline.

A timeline is a history of the source without a loss. The lease and the marker name the present timeline. After a loss
the rows of replicas may be those of no state of the primary. Therefore the relay goes on only under a new timeline:
workers of the old timeline then know that their replicas are suspect.
"""

from __future__ import annotations

from rowcast.producer.relay.claims.lease import Lease
from rowcast.producer.relay.kafka.marker import Markers
from rowcast.shared.errors import ConfigurationError, DataError

_LOST_LSNS = 10_000_000
"""Upper limit of the lsns of a claim that was sent in part. Workers have seen them, but Kafka has no marker of them."""

# A relay that wrote ten million events a second would need 30 hours for this distance.
_MAX_LEAP = 2**40


class NewTimelineNeededError(ConfigurationError):
    """Refuse to publish after a loss, until an operator begins a new timeline."""


def require_plausible(lease: Lease, markers: Markers, topic: str) -> None:
    """Raise DataError for a marker that no relay of this database can have written. ``topic``: the marker's topic.

    A new timeline would begin above the marker, and its lsns would soon be too large for the database.
    """
    highest = max(markers.committed or 0, markers.sent or 0)
    if highest > lease.next_lsn + _MAX_LEAP:
        raise DataError(
            f"the topic {topic} has a marker with lsn {highest}, but the database knows lsns up to "
            f"{lease.next_lsn - 1}. No relay of this database can have written it. Stop every relay, see who else may "
            "write there, and delete the topic. The relay then publishes again whatever is recorded as not committed."
        )


def primary_loss(lease: Lease, markers: Markers) -> str | None:
    """Return the loss of the primary, or None if the primary knows everything in Kafka."""
    if markers.timeline > lease.timeline:
        return (
            f"Kafka has timeline {markers.timeline} of this source, but the database knows timelines up to "
            f"{lease.timeline} only: it may have been restored from a backup"
        )
    if markers.sent is not None and markers.sent >= lease.next_lsn:
        return (
            f"Kafka has events of this source up to lsn {markers.sent}, but the database knows lsns up to "
            f"{lease.next_lsn - 1} only: it may have been restored from a backup"
        )
    return None


def kafka_loss(lease: Lease, markers: Markers, topic: str) -> str | None:
    """Return the loss of Kafka, or None if Kafka has everything published. ``topic``: the marker's topic."""
    if (markers.committed or 0) >= lease.published_lsn:
        return None
    has = "nothing" if markers.committed is None else f"events up to lsn {markers.committed}"
    return (
        f"Kafka has committed {has} of this source, but had committed events up to lsn {lease.published_lsn} before: "
        f"the cluster or the topic {topic} may be new or restored"
    )


def next_timeline(lease: Lease, markers: Markers) -> int:
    """Return the number of the timeline that may follow."""
    return max(lease.timeline, markers.timeline) + 1


def first_lsn(lease: Lease, markers: Markers) -> int:
    """Return the first lsn of the next timeline: above every lsn that a worker may have seen."""
    if markers.sent is None or markers.sent < lease.next_lsn:
        return lease.next_lsn
    return markers.sent + _LOST_LSNS + 1


def refusal(loss: str, source: str, number: int) -> NewTimelineNeededError:
    """Return the error that names the loss and the next step. ``number``: the number of the next timeline."""
    return NewTimelineNeededError(
        f"{loss}. The replicas of source {source!r} may have rows that the primary does not have, or lack rows. The "
        "relay publishes nothing until an operator has decided. If this is the wrong database or the wrong Kafka, "
        f"correct the configuration. If not, run `rowcast relay --new-timeline {number}`: it publishes all rows again, "
        "and the replicas become suspect until they are rebuilt. See docs/how-to/backups.md."
    )
