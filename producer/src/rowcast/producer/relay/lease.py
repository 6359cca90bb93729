"""The lease: one row a source, which says who leads. An epoch, raised by compare-and-swap, tells leaders apart.

Nobody needs to notice in time that its lease is over: whoever takes it raises the epoch, and from then on every
write of the predecessor finds no row to update. Times are milliseconds of the database's clock, so that no machine's
own clock matters.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from dataclasses import asdict, dataclass

import orjson
import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.producer.clock import now_ms
from rowcast.producer.outbox import OutboxTables
from rowcast.producer.relay.connections import Connections
from rowcast.shared.errors import ConfigurationError, FencedError

_log = logging.getLogger("rowcast.relay")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a relay's configuration sends events: Kafka's own name for the cluster (None: it has none that lasts), the
    template of the topics' names, and the messages' format."""

    cluster: str | None
    template: str
    format: str = "json"

    def to_json(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @staticmethod
    def from_json(text: str | None) -> Destination | None:
        return None if text is None else Destination(**orjson.loads(text))

    def differs(self, other: Destination) -> bool:
        return (self.template, self.format) != (other.template, other.format) or self.is_elsewhere(other)

    def is_elsewhere(self, other: Destination) -> bool:
        """Whether it is another cluster."""
        return None not in (self.cluster, other.cluster) and self.cluster != other.cluster

    def __str__(self) -> str:
        return f"the Kafka cluster {self.cluster or '(unknown)'}, topics {self.template}, as {self.format}"


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease as its holder saw it last. ``carried`` is JSON (``unfinished.Unfinished``) or None."""

    epoch: int
    next_lsn: int
    published_lsn: int
    carried: str | None


def new_owner() -> str:
    """A name that no other relay has, with what a person needs to find the process."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"[-255:]


class LeaseRow:
    """One source's row, seen by one relay."""

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
        self._destination = destination
        self._now = now_ms(connections.dialect)
        self._expiry = self._now + lease_ms
        self.swap_sql = (
            f"UPDATE rowcast_lease SET expires_ms = {self._now} + {lease_ms:d}, next_lsn = :next_lsn, "
            "published_lsn = :published_lsn, carried = :lease_carried "
            "WHERE source = :lease_source AND epoch = :lease_epoch AND next_lsn = :seen_lsn"
        )
        self._swap = sa.text(self.swap_sql)

    def take(self) -> int | None:
        """The new epoch if the lease was free, expired or this relay's own; None if another relay holds it.

        Raises ConfigurationError if this database's outbox is published under another source's name, or if a relay
        leads that publishes it elsewhere.
        """
        row = self._row.c
        free = (row.expires_ms <= self._now) | (row.owner == self._owner)
        seen = self._connections.reader.execute(
            sa.select(row.epoch, row.owner, row.destination, free.label("free")).where(row.source == self._source)
        ).first()
        if seen is None:
            self._insert()
            return self.take()
        before = Destination.from_json(seen.destination)
        if not seen.free:
            if before is not None and self._destination.differs(before):
                raise ConfigurationError(
                    f"the relay {seen.owner} leads the source {self._source!r} with another configuration: it "
                    f"publishes to {before}; this one would to {self._destination}. Give both the same [kafka], "
                    "[topics] and [relay] format, or stop that one first."
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
        if before is not None and self._destination.differs(before):
            self._tell_of_the_move(before)
        return int(seen.epoch) + 1

    def _tell_of_the_move(self, before: Destination) -> None:
        if self._destination.is_elsewhere(before):
            meaning = (
                "What the old cluster has is not sent again, but by rowcast snapshot; a relay asks for one by itself "
                'where snapshot = "when_needed" in [relay]'
            )
        elif self._destination.format != before.format:
            meaning = (
                "Workers take both, but Kafka's compaction takes a row's keys in the two formats for two rows: before "
                "a replica is built anew, have new topics made, and all rows brought into them by rowcast snapshot"
            )
        else:
            meaning = (
                "What is in topics of the old names stays there, and workers must say the same template: a new replica "
                "needs all rows in the new topics, which rowcast snapshot brings"
            )
        _log.warning(
            "the source %s was published to %s, and is to %s from now on. %s",
            self._source, before, self._destination, meaning,
        )  # fmt: skip

    def _insert(self) -> None:
        others = self._connections.reader.execute(sa.select(self._row.c.source)).scalars().all()
        if others and self._source not in others:
            raise ConfigurationError(
                f"this database's outbox is published as source {others[0]!r}, and the configuration says "
                f"{self._source!r}. Set source = {others[0]!r}; to rename the source for good, stop every relay and "
                f"delete the row from {self._row.name}."
            )
        row = {"source": self._source, "epoch": 0, "expires_ms": 0, "next_lsn": 1, "published_lsn": 0}
        try:
            with self._connections.writer.begin():
                self._connections.writer.execute(sa.insert(self._row), row)
        except exc.IntegrityError:
            # Another relay was quicker.
            return

    def look(self, epoch: int) -> Lease:
        """The row as it is. Raises FencedError if the epoch has moved on."""
        row = self._row.c
        seen = self._connections.reader.execute(
            sa.select(row.epoch, row.next_lsn, row.published_lsn, row.carried, row.owner).where(
                row.source == self._source
            )
        ).first()
        if seen is None or seen.epoch != epoch:
            raise self.fenced(seen.owner if seen else None)
        return Lease(seen.epoch, seen.next_lsn, seen.published_lsn, seen.carried)

    def swap(self, lease: Lease, next_: Lease) -> None:
        """From ``lease`` to ``next_``, and so renewed. Runs in a transaction of the writer that the caller has begun.

        Raises FencedError if the row is not what ``lease`` says: another relay has taken over.
        """
        swapped = self._connections.writer.execute(self._swap, self.swap_parameters(lease, next_))
        if swapped.rowcount != 1:
            raise self.fenced()

    def swap_parameters(self, lease: Lease, next_: Lease) -> dict[str, object]:
        """What ``swap_sql`` takes: it is the statement that ``swap`` executes, for a larger one to hold."""
        return {
            "lease_source": self._source,
            "lease_epoch": lease.epoch,
            "seen_lsn": lease.next_lsn,
            "next_lsn": next_.next_lsn,
            "published_lsn": next_.published_lsn,
            "lease_carried": next_.carried,
        }

    def renew(self, lease: Lease) -> None:
        """A sign of life. Raises FencedError if another relay has taken over."""
        with self._connections.writer.begin():
            self.swap(lease, lease)

    def release(self, epoch: int) -> None:
        """At an orderly stop: a standby takes over at once."""
        row = self._row.c
        with self._connections.writer.begin():
            self._connections.writer.execute(
                sa.update(self._row)
                .where(row.source == self._source, row.epoch == epoch)
                .values(expires_ms=0, owner=None)
            )

    def fenced(self, owner: str | None = None) -> FencedError:
        """The error to raise when the row is not this relay's any more."""
        by = f" ({owner})" if owner else ""
        return FencedError(f"another relay{by} has taken over the source {self._source!r}; this one stands by.")
