"""The lease: one row for each source, with the name of the leader. Each new leader increases the epoch in the row.

A leader need not notice at once when the lease has ended. The next leader increases the epoch by compare-and-swap, and
from then on the predecessor's writes find no row to update. Times are milliseconds of the database's clock, so that the
clocks of the machines do not matter.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass

import orjson
import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.schema import OutboxTables
from rowcast.producer.relay.claims.connections import Connections
from rowcast.shared.errors import ConfigurationError, FencedError

_log = logging.getLogger("rowcast.relay")

# No relay leads with a lease of ten times the length that this relay is configured with.
_LONGEST_LEASES = 10
# A leader renews its lease three times during the length of a lease.
_UNRENEWED_LEASES = 2


@dataclass(frozen=True, slots=True)
class Destination:
    """Describe where a relay's configuration sends events.

    ``cluster``: Kafka's id of the cluster, or None if the cluster has no lasting id. ``template``: the template of the
    topic names. ``format``: the format of the messages.
    """

    cluster: str | None
    template: str
    format: str = "json"

    def to_json(self) -> str:
        """Return the JSON text for the lease's row."""
        return orjson.dumps(asdict(self)).decode()

    @staticmethod
    def from_json(text: str | None) -> Destination | None:
        """Return the destination from the JSON text, or None without a text."""
        return None if text is None else Destination(**orjson.loads(text))

    def differs(self, other: Destination) -> bool:
        """Return whether cluster, template or format are different."""
        return (self.template, self.format) != (other.template, other.format) or self.is_other_cluster(other)

    def is_other_cluster(self, other: Destination) -> bool:
        """Return whether the clusters are different. Clusters without an id count as equal."""
        return None not in (self.cluster, other.cluster) and self.cluster != other.cluster

    def __str__(self) -> str:
        return f"the Kafka cluster {self.cluster or '(unknown)'}, topics {self.template}, as {self.format}"


@dataclass(frozen=True, slots=True)
class Lease:
    """Hold the lease's row after the last read or write of the leader.

    ``partial``: JSON of the ``PartialTransaction`` at the end of the last claim, or None (column ``carried``).
    ``timeline``: the number of the present timeline. ``timeline_lsn``: its first lsn.
    """

    epoch: int
    next_lsn: int
    published_lsn: int
    partial: str | None
    timeline: int = 1
    timeline_lsn: int = 0


class LeaseRow:
    """Read and write the lease of one source, for one relay. ``owner`` is the name of the relay's process."""

    def __init__(
        self,
        connections: Connections,
        tables: OutboxTables,
        source: str,
        owner: str,
        lease_ms: int,
        destination: Destination,
    ) -> None:
        self._connections = connections
        self._row = tables.lease
        self._source = source
        self._owner = owner
        self._lease_ms = lease_ms
        self._seen: tuple[int, int] | None = None
        """The epoch and the end of another relay's lease, as ``take`` last found them."""
        self._seen_since = 0.0
        self._destination = destination
        self._now = capture_dialect(connections.dialect).now_ms()
        self._expiry = self._now + lease_ms
        self.swap_sql = (
            f"UPDATE rowcast_lease SET expires_ms = {self._now} + {lease_ms:d}, next_lsn = :next_lsn, "
            "published_lsn = :published_lsn, carried = :lease_carried "
            "WHERE source = :lease_source AND epoch = :lease_epoch AND next_lsn = :seen_lsn"
        )
        self._swap = sa.text(self.swap_sql)

    def take(self) -> int | None:
        """Take the lease if it is free, expired, abandoned or this relay's own, and return the new epoch.

        Returns None if another relay holds the lease. Raises ConfigurationError if the outbox of this database is
        published under the name of another source, or if the leader publishes to another destination.
        """
        row = self._row.c
        free = (row.expires_ms <= self._now) | (row.owner == self._owner)
        remaining = (row.expires_ms - self._now).label("remaining_ms")
        seen = self._connections.reader.execute(
            sa.select(row.epoch, row.owner, row.destination, row.expires_ms, remaining, free.label("free")).where(
                row.source == self._source
            )
        ).first()
        if seen is None:
            self._insert()
            return self.take()
        previous = Destination.from_json(seen.destination)
        if not seen.free and self._is_abandoned(seen.epoch, seen.expires_ms, seen.remaining_ms):
            free |= row.expires_ms == seen.expires_ms
        elif not seen.free:
            if previous is not None and self._destination.differs(previous):
                raise ConfigurationError(
                    f"the relay {seen.owner} leads the source {self._source!r} with another configuration: it "
                    f"publishes to {previous}, and this relay would publish to {self._destination}. Give both relays "
                    "the same [kafka], [topics] and [relay] format, or stop the other relay first."
                )
            return None
        with self._connections.writer.begin():
            taken = self._connections.writer.execute(
                sa.update(self._row)
                .where(row.source == self._source, row.epoch == seen.epoch, free)
                .values(
                    epoch=seen.epoch + 1,
                    owner=self._owner,
                    expires_ms=self._expiry,
                    destination=self._destination.to_json(),
                )
            )
        if taken.rowcount != 1:
            return None
        if previous is not None and self._destination.differs(previous):
            self._warn_of_new_destination(previous)
        return int(seen.epoch) + 1

    def _is_abandoned(self, epoch: int, expires_ms: int, remaining_ms: int) -> bool:
        """Return whether the lease has no leader, although it has not expired by the database's clock.

        That is so if the clock went back after the leader's last renewal. Without this check, a relay would wait for as
        long as the clock is behind. The epoch keeps the predecessor from writing, as after every takeover.
        """
        now = time.monotonic()
        if self._seen != (epoch, expires_ms):
            self._seen, self._seen_since = (epoch, expires_ms), now
        unrenewed_ms = (now - self._seen_since) * 1000
        if remaining_ms <= _LONGEST_LEASES * self._lease_ms or unrenewed_ms < _UNRENEWED_LEASES * self._lease_ms:
            return False
        _log.warning(
            "the lease of the source %s ends in %.0f s by the database's clock, and was not renewed for %.0f s. "
            "The clock of the database has gone back. Taking over",
            self._source, remaining_ms / 1000, unrenewed_ms / 1000,
        )  # fmt: skip
        return True

    def _warn_of_new_destination(self, previous: Destination) -> None:
        if self._destination.is_other_cluster(previous):
            consequence = (
                "The relay does not send the events of the old cluster again. Run rowcast snapshot to publish all "
                'rows, or set snapshot = "when_needed" in [relay] so that the relay requests snapshots itself'
            )
        elif self._destination.format != previous.format:
            consequence = (
                "Workers read both formats, but Kafka's compaction treats the keys of a row in the two formats as two "
                "rows. Before you rebuild a replica, create new topics and publish all rows by rowcast snapshot"
            )
        else:
            consequence = (
                "The events in the topics of the old names stay there. Give the workers the same template. A new "
                "replica needs all rows in the new topics: run rowcast snapshot to publish them"
            )
        _log.warning(
            "the source %s was published to %s, and is published to %s from now on. %s",
            self._source, previous, self._destination, consequence,
        )  # fmt: skip

    def _insert(self) -> None:
        others = self._connections.reader.execute(sa.select(self._row.c.source)).scalars().all()
        if others and self._source not in others:
            raise ConfigurationError(
                f"this database's outbox is published as source {others[0]!r}, and the configuration says "
                f"{self._source!r}. Set source = {others[0]!r}. To rename the source for good, stop every relay and "
                f"delete the row from {self._row.name}."
            )
        row = {"source": self._source, "epoch": 0, "expires_ms": 0, "next_lsn": 1, "published_lsn": 0}
        try:
            with self._connections.writer.begin():
                self._connections.writer.execute(sa.insert(self._row), row)
        except exc.IntegrityError:
            # Another relay has inserted the row first.
            return

    def read(self, epoch: int) -> Lease:
        """Return the row from the database. Raises FencedError if the row has another epoch."""
        row = self._row.c
        seen = self._connections.reader.execute(
            sa.select(
                row.epoch, row.next_lsn, row.published_lsn, row.carried, row.owner, row.timeline, row.timeline_lsn
            ).where(row.source == self._source)
        ).first()
        if seen is None or seen.epoch != epoch:
            raise self.fenced_error(seen.owner if seen else None)
        return Lease(seen.epoch, seen.next_lsn, seen.published_lsn, seen.carried, seen.timeline, seen.timeline_lsn)

    def swap(self, lease: Lease, next_: Lease) -> None:
        """Change the row from ``lease`` to ``next_``, and renew it. The caller has begun a transaction of the writer.

        Raises FencedError if the row differs from ``lease``, because another relay has taken over.
        """
        swapped = self._connections.writer.execute(self._swap, self.swap_parameters(lease, next_))
        if swapped.rowcount != 1:
            raise self.fenced_error()

    def begin_timeline(self, lease: Lease, next_: Lease) -> None:
        """Change the row like ``swap``, and also write the timeline of ``next_``."""
        self.swap(lease, next_)
        values = {"timeline": next_.timeline, "timeline_lsn": next_.timeline_lsn}
        statement = sa.update(self._row).where(self._row.c.source == self._source).values(**values)
        self._connections.writer.execute(statement)

    def swap_parameters(self, lease: Lease, next_: Lease) -> dict[str, object]:
        """Return the parameters of ``swap_sql``. ``Claims`` embeds ``swap_sql`` in a larger statement."""
        return {
            "lease_source": self._source,
            "lease_epoch": lease.epoch,
            "seen_lsn": lease.next_lsn,
            "next_lsn": next_.next_lsn,
            "published_lsn": next_.published_lsn,
            "lease_carried": next_.partial,
        }

    def renew(self, lease: Lease) -> None:
        """Extend the lease from now on. Raises FencedError if another relay has taken over."""
        with self._connections.writer.begin():
            self.swap(lease, lease)

    def release(self, epoch: int) -> None:
        """Give the lease up at an orderly stop, so that a standby takes over at once."""
        row = self._row.c
        with self._connections.writer.begin():
            self._connections.writer.execute(
                sa.update(self._row)
                .where(row.source == self._source, row.epoch == epoch)
                .values(expires_ms=0, owner=None)
            )

    def fenced_error(self, owner: str | None = None) -> FencedError:
        """Return the error to raise when another relay holds the lease."""
        by = f" ({owner})" if owner else ""
        return FencedError(f"another relay{by} has taken over the source {self._source!r}. This relay stands by.")
