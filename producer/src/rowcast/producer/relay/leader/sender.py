"""Send messages for a leader: after the needed shapes, without delay if nothing follows, committed in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from rowcast.producer.outbox.line_parser import LineHead
from rowcast.producer.relay.claims.epoch import Epoch
from rowcast.producer.relay.kafka.publisher import Publisher
from rowcast.producer.relay.kafka.topics import Topics
from rowcast.producer.relay.leader.source_notes import SourceNotes
from rowcast.producer.relay.messages.connect_schemas import HEARTBEAT_FRAME
from rowcast.producer.relay.messages.envelopes import Message
from rowcast.producer.relay.messages.table_versions import TableVersion, TableVersions
from rowcast.shared.kafka.messages import heartbeat
from rowcast.shared.kafka.topic_names import heartbeat_topic, schema_topic

_MAX_CLAIMS_IN_TRANSACTION = 4
"""A Kafka transaction with the rows of this many full claims is committed early, because the relay skips claimed rows
in each read of the outbox."""

_REPLAY_TRANSACTION_S = 1.0
"""At a takeover, a Kafka transaction with recorded claims is committed after this time. Brokers abort a transaction
after a minute."""

_PUSH_FOR_S = 0.1
"""For this time after the last message, the relay pushes messages that Kafka has not acknowledged."""

_IDLE_SHARE = 0.2
"""If nothing came for this share of the Kafka transaction interval, the transaction is committed early."""


class Sender:
    """Send messages and commit Kafka transactions for one leader.

    ``on_committed`` is called with the highest committed lsn, in the calling thread. All methods that
    send or commit raise the errors of ``Publisher.send`` and ``Publisher.take_committed``, also for earlier messages.

    ``lsn``: the highest sent lsn.
    """

    def __init__(
        self,
        epoch: Epoch,
        publisher: Publisher,
        topics: Topics,
        tables: TableVersions,
        notes: SourceNotes,
        on_committed: Callable[[int], None],
    ) -> None:
        self._publisher = publisher
        self._topics = topics
        self._tables = tables
        self._notes = notes
        self._source = epoch.source
        self._settings = epoch.relay_settings
        self._heartbeat = epoch.heartbeat
        self._on_committed = on_committed
        self._interval_s = epoch.relay_settings.kafka_transaction_ms / 1000
        self._sent_at = 0.0
        self._open_claims = 0
        self._committing_claims = 0
        self._open_rows = 0
        self._pushing = False
        self.lsn = 0

    def send(self, messages: Iterable[Message], lsn: int, rows: int = 0) -> None:
        """Send messages. ``lsn``: their highest lsn. ``rows``: number of their outbox rows."""
        self._publisher.send(messages, lsn)
        self._sent_at = time.monotonic()
        self._open_claims += 1
        self._open_rows += rows
        self.lsn = lsn

    def prepare(self, heads: Collection[LineHead]) -> None:
        """Publish the shapes and create the topics for events with these heads."""
        self.publish_shapes(self._tables.to_publish(heads))
        self._topics.ensure({self._tables.get(head).topic for head in heads}, self._heartbeat.renew_lease)

    def publish_shapes(self, shapes: list[TableVersion]) -> None:
        """Publish shapes in a separate Kafka transaction, before the first event that names the shapes."""
        if not shapes:
            return
        self.commit()
        topic, lsn = schema_topic(self._source), self.lsn + 1
        self._topics.ensure((table.topic for table in shapes), self._heartbeat.renew_lease)
        self._notes.refresh()
        messages: list[Message] = [
            (topic, table.value(self._source, lsn, self._notes.of(table.shape.full_name)), table.key(), 0)
            for table in shapes
        ]
        self._publisher.send(messages, self.lsn)
        self.commit()

    def send_heartbeat_if_due(self) -> None:
        """Send a record to the heartbeat topic if nothing was sent for ``heartbeat_ms``."""
        if not self._settings.heartbeat_ms or self._heartbeat_record_due_in_s() > 0:
            return
        value, key = heartbeat(self._source, time.time_ns() // 1_000_000)
        if self._settings.format == "json-schema":
            value, key = HEARTBEAT_FRAME.value(value), HEARTBEAT_FRAME.key(key)
        self.send([(heartbeat_topic(self._source), value, key, 0)], self.lsn)

    def _heartbeat_record_due_in_s(self) -> float:
        return self._sent_at + self._settings.heartbeat_ms / 1000 - time.monotonic()

    def push(self, *, sent: bool) -> bool:
        """Send lingering messages at once, because nothing follows for now.

        ``sent``: messages were sent since the last call. Returns whether to call it again at once, because Kafka has
        not acknowledged everything.
        """
        if sent or self._pushing:
            self._pushing = not self._publisher.push() and time.monotonic() - self._sent_at < _PUSH_FOR_S
        return self._pushing

    def commit(self) -> None:
        """Wait until Kafka has committed all messages."""
        self.begin_commit()
        self.poll_commits(wait=True)

    def commit_if_due(self, *, idle: bool) -> None:
        """Begin to commit the open Kafka transaction if it is time. ``idle``: the outbox has no rows to claim."""
        if self._commit_is_due(idle):
            self.begin_commit()

    def _commit_is_due(self, idle: bool) -> bool:
        begun_at = self._publisher.begun_at
        if begun_at is None:
            return False
        if self._is_full or self._interval_s == 0:
            return True
        if self._publisher.committing:
            # A second commit would have to wait for the first.
            return False
        now = time.monotonic()
        if now - begun_at >= self._interval_s:
            return True
        return idle and now - self._sent_at >= self._interval_s * _IDLE_SHARE

    @property
    def _is_full(self) -> bool:
        """Return whether the open Kafka transaction takes no further claim.

        Without this limit, claims would pile up while Kafka does not commit, and the next relay would publish all
        claims again.
        """
        most_rows = _MAX_CLAIMS_IN_TRANSACTION * self._settings.claim_rows
        claims = self._open_claims + self._committing_claims
        return self._open_rows >= most_rows or claims >= self._settings.max_claims

    def commit_replayed(self) -> None:
        """Commit the recorded claims that were sent again, and wait, if the Kafka transaction is full or old."""
        begun_at = self._publisher.begun_at
        if begun_at is not None and (self._is_full or time.monotonic() - begun_at > _REPLAY_TRANSACTION_S):
            self.commit()

    def begin_commit(self) -> None:
        """Begin to commit the open Kafka transaction. First wait until the previous transaction is committed."""
        self._publisher.begin_commit(self.lsn)
        self._committing_claims = self._open_claims
        self._open_rows = self._open_claims = 0

    def poll_commits(self, *, wait: bool = False) -> None:
        """Call ``on_committed`` if Kafka has committed a transaction. ``wait``: wait for the commit that has begun."""
        committed = self._publisher.take_committed(wait=wait)
        if committed is not None:
            self._committing_claims = 0
            self._on_committed(committed)

    @property
    def longest_pause_s(self) -> float:
        """Return the seconds until something is due even if no rows come, or infinity."""
        due = float("inf")
        if self._settings.heartbeat_ms:
            due = self._heartbeat_record_due_in_s()
        # During a commit no other commit is due. The end of the commit wakes the relay.
        if self._publisher.begun_at is not None and not self._publisher.committing:
            due = min(due, self._sent_at + self._interval_s * _IDLE_SHARE - time.monotonic())
        return due
