"""The leader's work: claim, send, commit in Kafka, delete. The order of these steps never changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from rowcast.producer.outbox.parked_rows import parked_transactions
from rowcast.producer.relay.claims.claim_table import Claim, Claims
from rowcast.producer.relay.claims.epoch import Epoch
from rowcast.producer.relay.claims.lease import Lease
from rowcast.producer.relay.claims.outbox_reader import OutboxReader
from rowcast.producer.relay.kafka.marker import Markers
from rowcast.producer.relay.kafka.publisher import Publisher
from rowcast.producer.relay.kafka.topics import Topics
from rowcast.producer.relay.leader import timelines
from rowcast.producer.relay.leader.next_claim import NextClaim
from rowcast.producer.relay.leader.row_loader import RowLoader
from rowcast.producer.relay.leader.sender import Sender
from rowcast.producer.relay.leader.source_notes import SourceNotes
from rowcast.producer.relay.messages.batch_rows import ParsedRow, UnpublishableError, event_count, heads_in
from rowcast.producer.relay.messages.connect_images import ConnectImages
from rowcast.producer.relay.messages.envelopes import Envelopes
from rowcast.producer.relay.messages.table_versions import TableVersions
from rowcast.producer.relay.snapshots.chunk_reader import Chunk
from rowcast.producer.relay.snapshots.runner import SnapshotRunner
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.kafka.topic_names import heartbeat_topic, marker_topic

_log = logging.getLogger("rowcast.relay")


class Leader:
    """Publish the outbox for one epoch. Call ``take_over`` first, and then ``work`` again and again.

    Any error ends the leader. The next leader, perhaps in the same process, begins with ``take_over``.

    ``on_events`` is called with the number of sent events. ``new_timeline``: the number of the timeline that may begin
    after a loss, or None. ``more``: whether to call ``work`` again at once.
    """

    def __init__(
        self,
        epoch: Epoch,
        publisher: Publisher,
        topics: Topics,
        on_events: Callable[[int], None],
        new_timeline: int | None = None,
    ) -> None:
        self._epoch = epoch
        self._new_timeline = new_timeline
        self._settings = epoch.relay_settings
        self._heartbeat = epoch.heartbeat
        self._connections = epoch.connections
        self._publisher = publisher
        self._topics = topics
        self._on_events = on_events
        self._outbox = OutboxReader(epoch.connections, epoch.tables, epoch.heartbeat.renew_lease)
        self._tables = TableVersions(epoch.connections, epoch.source, epoch.settings.topics.template)
        self._images = ConnectImages(self._tables) if self._settings.format == "json-schema" else None
        schemas = self._images is not None
        self._envelopes = Envelopes(epoch.source, epoch.database, self._tables, schemas=schemas)
        self._notes = SourceNotes(epoch)
        self._sender = Sender(
            epoch, publisher, topics, self._tables, self._notes, lambda lsn: self._claims.mark_committed(lsn)
        )
        self._rows = RowLoader(
            self._outbox, self._tables, self._envelopes, topics.limits, self._sender.prepare, self._images
        )
        self._snapshots = SnapshotRunner(epoch, self._images)
        self._taken_over: tuple[Claims, NextClaim] | None = None
        self.more = False

    def take_over(self) -> None:
        """Fence the predecessor and publish the claims left behind. The lease was taken before.

        The order of the steps matters, and ``tests/models/test_relay_protocol.py`` checks the order.
        """
        epoch = self._epoch
        heartbeats = [heartbeat_topic(epoch.source)] if self._settings.heartbeat_ms else []
        self._topics.ensure_own(heartbeats, self._heartbeat.renew_lease)
        # A relay of the wrong database must not fence the leader, so it is refused before.
        self._require_allowed(epoch.lease_row.read(epoch.number), self._publisher.peek_markers(), is_fenced=False)
        self._publisher.fence(lambda: epoch.lease_row.read(epoch.number))
        # A relay suspended after taking the lease has just fenced the successor, and finds out here.
        lease = epoch.lease_row.read(epoch.number)
        claims = Claims(epoch.connections, epoch.tables, epoch.lease_row, self._outbox, lease)
        self._taken_over = claims, NextClaim(epoch, self._rows, claims, self.commit)
        self._heartbeat.follow(lambda: claims.lease)
        markers = self._publisher.markers()
        loss = self._require_allowed(lease, markers)
        if markers.committed is not None:
            claims.mark_committed(markers.committed)
        self._begin_timeline_if_needed(markers, loss)
        claims.settle()
        claims.drop_chunks()
        self._follow_timeline()
        self._sender.lsn = max(markers.committed or 0, claims.lease.published_lsn, claims.lease.timeline_lsn - 1)
        self._warn_of_parked_transactions()
        self._sender.publish_shapes(self._tables.all_to_publish())
        self._publish_recorded_claims()

    def _require_allowed(self, lease: Lease, markers: Markers, *, is_fenced: bool = True) -> str | None:
        """Return the loss after which a new timeline may begin, or None without a loss.

        ``is_fenced``: the predecessor is fenced. Before, Kafka may not show yet what the predecessor has committed.

        Raises DataError for a marker of nobody, and NewTimelineNeededError after a loss, unless an operator or the
        settings allow the new timeline.
        """
        topic, number = marker_topic(self._epoch.source), timelines.next_timeline(lease, markers)
        timelines.require_plausible(lease, markers, topic)
        lost_by_primary = timelines.primary_loss(lease, markers)
        loss = lost_by_primary or (timelines.kafka_loss(lease, markers, topic) if is_fenced else None)
        if loss is None and self._new_timeline in (None, lease.timeline):
            return None
        if self._new_timeline not in (None, lease.timeline, number):
            raise ConfigurationError(
                f"--new-timeline {self._new_timeline}: source {self._epoch.source!r} is on timeline {lease.timeline}, "
                f"and the next is {number}. Name that number."
            )
        # With "when_needed" the user has allowed the relay to read all rows again.
        is_allowed = lost_by_primary is None and (self._settings.snapshot == "when_needed" or self._topics.embedded)
        if loss is not None and self._new_timeline != number and not is_allowed:
            raise timelines.refusal(loss, self._epoch.source, number)
        return loss

    def _begin_timeline_if_needed(self, markers: Markers, loss: str | None) -> None:
        """Begin a new timeline after a loss, or if an operator wants one."""
        lease = self._claims.lease
        if loss is None and self._new_timeline in (None, lease.timeline):
            return
        number, first_lsn = timelines.next_timeline(lease, markers), timelines.first_lsn(lease, markers)
        self._claims.begin_timeline(number, first_lsn, markers.committed or 0, self._settings.chunk_rows)
        _log.warning(
            "%s. The source %s is on timeline %d from lsn %d on. Rebuild its replicas, because they are suspect",
            loss or "an operator wants a new timeline", self._epoch.source, number, self._claims.lease.timeline_lsn,
        )  # fmt: skip

    def _follow_timeline(self) -> None:
        lease = self._claims.lease
        self._notes.follow(lease)
        self._envelopes.timeline = self._publisher.timeline = lease.timeline

    def _warn_of_parked_transactions(self) -> None:
        if parked := parked_transactions(self._connections.reader):
            _log.warning(
                "%d transactions are parked, and the replicas lack their changes. "
                "Run rowcast dlq list --source to see them",
                len(parked),
            )

    def _publish_recorded_claims(self) -> None:
        """Send the recorded claims again, in order. A Kafka transaction takes many claims, because a commit is slow."""
        recorded = list(self._claims.pending)
        if not recorded:
            return
        first_lsn, last_lsn = recorded[0].first_lsn, recorded[-1].last_lsn
        _log.info("publishing again %d claims of the predecessor, lsn %d to %d", len(recorded), first_lsn, last_lsn)
        for claim in recorded:
            try:
                rows = self._next.load_claimed(claim)
            except DataError:
                # An unpublishable claim does not delay earlier claims.
                self.commit()
                raise
            self._send(claim, rows)
            self._sender.commit_replayed()
            self._heartbeat.renew_lease()
        self.commit()

    @property
    def committed_lsn(self) -> int:
        """Return the highest lsn that Kafka has committed, as far as known."""
        pending = self._claims.pending
        return pending[0].first_lsn - 1 if pending else max(self._sender.lsn, self._claims.lease.published_lsn)

    @property
    def deleted_lsn(self) -> int:
        """Return the highest lsn whose outbox rows are deleted."""
        return self._claims.lease.published_lsn

    @property
    def _claims(self) -> Claims:
        assert self._taken_over is not None, "call take_over first"
        return self._taken_over[0]

    @property
    def _next(self) -> NextClaim:
        assert self._taken_over is not None, "call take_over first"
        return self._taken_over[1]

    def work(self) -> bool:
        """Claim and send the next rows, and commit and delete if due. Returns False without any work to do.

        Raises UnpublishableError if the next transaction cannot be published or parked. All
        transactions before it are committed then.
        """
        self._sender.poll_commits()
        try:
            sent = self._publish_next(self._outbox, self._claims.claimed)
        except UnpublishableError as error:
            sent = self._handle_unpublishable(error)
        # A chunk comes after all waiting rows, so a chunk is read only when few rows wait.
        chunk = 0 if self._next.more else self._publish_chunk()
        idle = sent + chunk == 0
        if idle:
            self._sender.send_heartbeat_if_due()
        self.more = chunk > 0 or self._next.more
        if not self.more:
            self.more = self._sender.push(sent=sent > 0)
        self._sender.commit_if_due(idle=idle)
        if idle:
            self._claims.settle()
            self._publish_completed_snapshots()
        self._heartbeat.renew_lease()
        return self.more or not idle

    def _publish_next(self, outbox: OutboxReader, claimed: Collection[int]) -> int:
        """Claim and send the next rows, and return their number. ``claimed``: ids of rows to skip."""
        next_ = self._next.claim(outbox, claimed)
        if next_ is None:
            return 0
        self._heartbeat.note_renewal()
        self._send(*next_)
        return len(next_[1])

    def _publish_chunk(self) -> int:
        """Publish the next chunk of a snapshot, if a snapshot is due, and return the number of its rows.

        The chunk is read in a database snapshot. Its rows come after all events that the database snapshot sees, and
        before all later events.
        """
        if self._snapshots.due() is None:
            return 0
        with self._connections.snapshot() as snapshot:
            outbox = self._outbox.in_snapshot(snapshot)
            if not outbox.is_sealed():
                return 0
            # The database snapshot still shows the rows that are deleted from now on.
            claimed = set(self._claims.claimed)
            try:
                while self._publish_next(outbox, claimed):
                    claimed.update(self._claims.claimed)
                    self._heartbeat.renew_lease()
            except UnpublishableError:
                # The next call of ``work`` meets the same transaction, and handles it.
                return 1
            chunk = self._snapshots.read_chunk(snapshot)
        if chunk is None:
            return 0
        if (reason := self._rows.chunk_excess(chunk.changes, chunk.largest, self._claims.lease.next_lsn)) is not None:
            self._snapshots.fail_due(reason)
            return 1
        self._send_chunk(chunk)
        # The last chunk may be empty, and the snapshot must end.
        return len(chunk.changes) or 1

    def _send_chunk(self, chunk: Chunk) -> None:
        # One lsn for each row, and two for the transaction without events that follows.
        lsns = len(chunk.changes) + 2
        claim = self._claims.record([], lsns, None, self._snapshots.begin_claim(chunk))
        self._heartbeat.note_renewal()
        self._sender.prepare({head for head, *_ in chunk.changes[:1]})
        messages = self._envelopes.chunk_messages(claim, chunk.changes, time.time_ns() // 1_000_000)
        self._sender.send(messages, claim.last_lsn)
        self._on_events(len(chunk.changes))

    def commit(self) -> None:
        """Wait until Kafka has committed all messages. The next claim or ``finish`` deletes the rows."""
        self._sender.commit()

    def finish(self) -> None:
        """Commit all messages, and delete their outbox rows."""
        self.commit()
        self._claims.settle()
        self._publish_completed_snapshots(at_once=True)

    def _publish_completed_snapshots(self, *, at_once: bool = False) -> None:
        """Publish the shapes of tables whose initial snapshot is committed in Kafka, because workers wait for them."""
        if completed := self._notes.completed(at_once=at_once):
            self._sender.publish_shapes(self._tables.newest(completed))

    @property
    def longest_pause_s(self) -> float:
        """Return the seconds until ``work`` must be called again, even if no rows come."""
        return max(0.0, min(self._heartbeat.due_in_s, self._sender.longest_pause_s))

    def _handle_unpublishable(self, error: UnpublishableError) -> int:
        """Park the transaction and return the number of its rows. Raise ``error`` if the settings forbid parking."""
        claims = self._claims
        if self._settings.on_unpublishable == "stop":
            self.finish()
            raise error
        ids = self._outbox.ids_of_transaction(error.tx)
        partial = claims.partial
        if (partial is not None and partial.tx == error.tx) or any(id_ in claims.claimed for id_ in ids):
            self.finish()
            raise error.after_partial_claim() from error
        claims.park(ids, error.reason)
        self._heartbeat.note_renewal()
        _log.error(
            "transaction %s is parked (%d outbox rows), and the replicas lack its changes: %s. "
            "Run rowcast dlq show --source to see it",
            error.tx, len(ids), error.reason, extra={"transaction": error.tx, "rows": len(ids)},
        )  # fmt: skip
        return len(ids)

    def _send(self, claim: Claim, rows: list[ParsedRow]) -> None:
        self._sender.prepare({head for _, head in heads_in(rows)})
        messages = self._envelopes.claim_messages(claim, rows, time.time_ns() // 1_000_000)
        self._sender.send(messages, claim.last_lsn, len(rows))
        self._on_events(event_count(rows))
