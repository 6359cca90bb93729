"""The leader's work: claim, produce, commit in Kafka, delete; in that order, whatever happens in between."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from rowcast.producer.outbox import OutboxTables
from rowcast.producer.parked import parked_transactions
from rowcast.producer.relay.batches import BatchRow, UnpublishableError, event_count, heads_in
from rowcast.producer.relay.claims import Claim, Claims
from rowcast.producer.relay.connect_images import ConnectImages
from rowcast.producer.relay.connections import Connections
from rowcast.producer.relay.envelopes import Envelopes
from rowcast.producer.relay.lease import LeaseRow
from rowcast.producer.relay.publisher import Publisher
from rowcast.producer.relay.reading import Outbox
from rowcast.producer.relay.rows import Rows
from rowcast.producer.relay.selection import Limits
from rowcast.producer.relay.sending import Sending
from rowcast.producer.relay.snapshotting import Snapshotting
from rowcast.producer.relay.tables import Tables
from rowcast.producer.relay.topics import Topics
from rowcast.producer.relay.upcoming import Upcoming
from rowcast.shared.config import RelaySettings
from rowcast.shared.events import TABLE_TOPIC, heartbeat_topic, marker_topic
from rowcast.shared.shapes import TableShape
from rowcast.shared.table_settings import TableSettings

_log = logging.getLogger("rowcast.relay")

CLAIM_BYTES = 8 * 1024 * 1024
"""A claim's rows are in memory at once: it takes no more than this, or a single row."""

_UNMARKED = 10_000_000
"""A claim that was sent in part has no marker in Kafka, but lsns that workers have seen. It takes fewer than this."""


class Leader:
    """One epoch's leader. Any error ends it; whoever leads next, perhaps the same process, starts with ``take_over``.

    ``settings_of`` knows the salts of a table's hashes; ``on_events`` is told the number of events handed to Kafka.
    """

    def __init__(
        self,
        connections: Connections,
        tables: OutboxTables,
        lease_row: LeaseRow,
        epoch: int,
        publisher: Publisher,
        topics: Topics,
        source: str,
        database: str,
        settings: RelaySettings,
        settings_of: Callable[[TableShape], TableSettings],
        on_events: Callable[[int], None],
        template: str = TABLE_TOPIC,
    ) -> None:
        self._connections = connections
        self._own_tables = tables
        self._lease_row = lease_row
        self._epoch = epoch
        self._publisher = publisher
        self._topics = topics
        self._source = source
        self._settings = settings
        self._on_events = on_events
        self._limits = Limits(settings.claim_rows, CLAIM_BYTES)
        self._outbox = Outbox(connections, tables, self.keep_lease)
        self._tables = Tables(connections, tables, source, template)
        self._images = ConnectImages(self._tables) if settings.format == "json-schema" else None
        self._envelopes = Envelopes(source, database, self._tables, schemas=self._images is not None)
        self._sending = Sending(
            publisher, topics, self._tables, source, settings, self.keep_lease, lambda lsn: self._held.committed(lsn)
        )
        self._rows = Rows(
            self._outbox, self._tables, self._envelopes, topics.limits, self._sending.prepare, self._images
        )
        self._renewed_at = time.monotonic()
        self.more = False
        self._claims: Claims | None = None
        self._looking: Upcoming | None = None
        self._snapshots = Snapshotting(connections, tables, settings, settings_of, self._images)

    def take_over(self) -> None:
        """Fences the predecessor and publishes what it has left. The lease has been taken before.

        The order matters: tests/unit/protocol_model.py checks it.
        """
        self._publisher.fence(lambda: self._lease_row.look(self._epoch))
        # A relay that slept since it took the lease has just fenced its successor: it finds out here.
        lease = self._lease_row.look(self._epoch)
        self._claims = claims = Claims(self._connections, self._own_tables, self._lease_row, self._outbox, lease)
        parks = self._settings.on_unpublishable == "park"
        self._looking = Upcoming(self._rows, claims, self._limits, self.commit, self.keep_lease, parks=parks)
        heartbeats = [heartbeat_topic(self._source)] if self._settings.heartbeat_ms else []
        self._topics.ensure_own(heartbeats, self.keep_lease)
        marker, sent = self._publisher.markers()
        if (marker or 0) < lease.published_lsn:
            _log.warning(
                "of this source Kafka has committed %s, and once had up to lsn %d: is the cluster, or the topic %s, "
                "new, or was it restored? What is recorded as not committed is published again",
                "nothing" if marker is None else f"what goes up to lsn {marker}",
                lease.published_lsn,
                marker_topic(self._source),
            )
            self._snapshots.kafka_has_lost()
        if marker is not None:
            claims.committed(marker)
        if sent is not None and sent >= lease.next_lsn:
            _log.warning(
                "Kafka has events of this source up to lsn %d, the database knows of none above %d: was it "
                "restored from a backup? Going on far above Kafka's",
                sent,
                lease.next_lsn - 1,
            )
            claims.start_above(sent + _UNMARKED)
        claims.settle()
        claims.drop_chunks()
        self._sending.lsn = max(marker or 0, lease.published_lsn)
        self._tell_parked()
        self._sending.publish_shapes(self._tables.all_published())
        for claim in list(claims.pending):
            _log.info("publishing again what the predecessor claimed: lsn %d to %d", claim.first_lsn, claim.last_lsn)
            self._send(claim, self._next.claimed_before(claim))
            # One by one: what cannot be published must not hold back what came before it.
            self.commit()

    def _tell_parked(self) -> None:
        if parked := parked_transactions(self._connections.reader):
            _log.warning(
                "%d transactions are parked, and the replicas lack their changes: see rowcast dlq list --source",
                len(parked),
            )

    @property
    def committed_lsn(self) -> int:
        """The highest lsn that Kafka is known to have committed."""
        published = self._held.lease.published_lsn
        pending = self._held.pending
        return pending[0].first_lsn - 1 if pending else max(self._sending.lsn, published)

    @property
    def deleted_lsn(self) -> int:
        """The outbox holds nothing up to this lsn."""
        return self._held.lease.published_lsn

    @property
    def _held(self) -> Claims:
        assert self._claims is not None, "take_over comes first"
        return self._claims

    @property
    def _next(self) -> Upcoming:
        assert self._looking is not None, "take_over comes first"
        return self._looking

    def work(self) -> bool:
        """Claims and publishes the next rows; False if there was nothing to do. Commits in Kafka and deletes when it is
        time. ``more`` says afterwards whether to call it again at once.

        Raises UnpublishableError when the next transaction cannot be published, and is not to be parked; everything
        before it is committed then.
        """
        self._sending.learn()
        try:
            sent = self._publish_next(self._outbox, self._held.claimed)
        except UnpublishableError as error:
            sent = self._set_aside(error)
        # A chunk comes behind all that waits: little must wait.
        chunk = 0 if self._next.more else self._publish_chunk()
        idle = sent + chunk == 0
        if idle:
            self._sending.beat_if_due()
        self.more = chunk > 0 or self._next.more
        if not self.more:
            self.more = self._sending.push(sent=sent > 0)
        self._sending.commit_if_due(idle=idle)
        if idle:
            self._held.settle()
        self.keep_lease()
        return self.more or not idle

    def _publish_next(self, outbox: Outbox, claimed: Collection[int]) -> int:
        """Claims and sends the next rows but those that are ``claimed``, and returns how many they are."""
        next_ = self._next.claim(outbox, claimed)
        if next_ is None:
            return 0
        self._renewed_at = time.monotonic()
        self._send(*next_)
        return len(next_[1])

    def _publish_chunk(self) -> int:
        """The next chunk of a snapshot, if one is due: behind all events of the moment at which it is read, and before
        all that come later. Returns the number of its rows."""
        if self._snapshots.due() is None:
            return 0
        with self._connections.snapshot() as snapshot:
            outbox = self._outbox.at(snapshot)
            if not outbox.is_sealed():
                return 0
            # What is deleted from now on is still seen there.
            claimed = set(self._held.claimed)
            try:
                while self._publish_next(outbox, claimed):
                    claimed.update(self._held.claimed)
                    self.keep_lease()
            except UnpublishableError:
                # The next look at the outbox meets it, too, and sets it aside.
                return 1
            chunk = self._snapshots.read(snapshot, self.keep_lease)
        if chunk is None:
            return 0
        if (reason := self._rows.excess_of(chunk.changes, chunk.largest, self._held.lease.next_lsn)) is not None:
            self._snapshots.give_up(reason)
            return 1
        lsns = len(chunk.changes) + 2
        claim = self._held.record([], lsns, None, self._snapshots.claimed(chunk))
        self._renewed_at = time.monotonic()
        self._sending.prepare({head for head, *_ in chunk.changes[:1]})
        self._sending.send(self._envelopes.chunk(claim, chunk.changes, time.time_ns() // 1_000_000), claim.last_lsn)
        self._on_events(len(chunk.changes))
        # The last one may be empty.
        return len(chunk.changes) or 1

    def commit(self) -> None:
        """Waits until Kafka has committed all that is sent. It is deleted with the next claim, or by ``settle``."""
        self._sending.commit()

    def finish(self) -> None:
        """Commits and deletes all that is sent."""
        self.commit()
        self._held.settle()

    def keep_lease(self) -> None:
        """Renews the lease when a third of it has gone by. Raises FencedError if another relay has taken over."""
        if self._renewal_in() <= 0:
            if self._claims is None:
                self._lease_row.renew(self._lease_row.look(self._epoch))
            else:
                self._claims.renew()
            self._renewed_at = time.monotonic()

    @property
    def longest_pause(self) -> float:
        """Seconds until ``work`` must be called again, even if nothing comes."""
        return max(0.0, min(self._renewal_in(), self._sending.longest_pause))

    def _renewal_in(self) -> float:
        return self._renewed_at + self._settings.lease_ms / 3000 - time.monotonic()

    def _set_aside(self, error: UnpublishableError) -> int:
        """Parks a transaction that cannot be published, if it is to be, and returns the number of its rows. Raises what
        stops the relay if not."""
        claims = self._held
        if self._settings.on_unpublishable == "stop":
            self.finish()
            raise error
        ids = self._outbox.ids_of(error.tx)
        unfinished = claims.unfinished
        if (unfinished is not None and unfinished.tx == error.tx) or any(id_ in claims.claimed for id_ in ids):
            self.finish()
            raise error.when_begun() from error
        claims.park(ids, error.reason)
        self._renewed_at = time.monotonic()
        _log.error(
            "transaction %s is parked (%d outbox rows), and the replicas lack its changes: %s. "
            "See rowcast dlq show --source",
            error.tx, len(ids), error.reason, extra={"transaction": error.tx, "rows": len(ids)},
        )  # fmt: skip
        return len(ids)

    def _send(self, claim: Claim, rows: list[BatchRow]) -> None:
        self._sending.prepare({head for _, head in heads_in(rows)})
        messages = self._envelopes.messages(claim, rows, time.time_ns() // 1_000_000)
        self._sending.send(messages, claim.last_lsn, len(rows))
        self._on_events(event_count(rows))
