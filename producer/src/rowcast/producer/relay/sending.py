"""What a leader hands to Kafka: behind the shapes that it needs, at once when nothing follows, committed in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from rowcast.producer.relay.connect_schemas import HEARTBEAT_FRAME
from rowcast.producer.relay.envelopes import Message
from rowcast.producer.relay.lines import LineHead
from rowcast.producer.relay.publisher import Publisher
from rowcast.producer.relay.tables import Tables, TableVersion
from rowcast.producer.relay.topics import Topics
from rowcast.shared.config import RelaySettings
from rowcast.shared.events import heartbeat, heartbeat_topic, schema_topic

_CLAIMS_IN_FLIGHT = 4
"""Rows of this many full claims, and Kafka's transaction is committed before its time: claimed rows cost each look."""

_PUSHING_S = 0.1
"""For so long what Kafka has not acknowledged may be waiting for more to come, and is sent at once, again and again."""

_IDLE = 0.2
"""When nothing came for this part of Kafka's transaction interval, it is committed before its time."""


class Sending:
    """One leader's. ``keep_lease`` is called now and then, ``on_committed`` with the highest lsn that Kafka has
    committed, in the thread that calls.

    What is sent, or found to have failed since, raises as ``Publisher.send`` and ``Publisher.committed``.
    """

    def __init__(
        self,
        publisher: Publisher,
        topics: Topics,
        tables: Tables,
        source: str,
        settings: RelaySettings,
        keep_lease: Callable[[], None],
        on_committed: Callable[[int], None],
    ) -> None:
        self._publisher = publisher
        self._topics = topics
        self._tables = tables
        self._source = source
        self._settings = settings
        self._keep_lease = keep_lease
        self._on_committed = on_committed
        self._interval = settings.kafka_transaction_ms / 1000
        self._sent_at = 0.0
        self._open_rows = 0
        self._pushing = False
        self.lsn = 0
        """The highest that was sent."""

    def send(self, messages: Iterable[Message], lsn: int, rows: int = 0) -> None:
        """``lsn``: the highest among them; ``rows``: how many outbox rows they are made of."""
        self._publisher.send(messages, lsn)
        self._sent_at = time.monotonic()
        self._open_rows += rows
        self.lsn = lsn

    def prepare(self, heads: Collection[LineHead]) -> None:
        """Puts into Kafka what must be there before events with these heads."""
        self.publish_shapes(self._tables.to_publish(heads))
        self._topics.ensure({self._tables.of(head).topic for head in heads}, self._keep_lease)

    def publish_shapes(self, shapes: list[TableVersion]) -> None:
        """In a Kafka transaction of their own, before the first event that names them."""
        if not shapes:
            return
        self.commit()
        topic, lsn = schema_topic(self._source), self.lsn + 1
        self._topics.ensure((table.topic for table in shapes), self._keep_lease)
        messages: list[Message] = [(topic, table.value(self._source, lsn), table.key(), 0) for table in shapes]
        self._publisher.send(messages, self.lsn)
        self.commit()

    def beat_if_due(self) -> None:
        """A heartbeat, when nothing was sent for its interval."""
        if not self._settings.heartbeat_ms or self._beats_in() > 0:
            return
        value, key = heartbeat(self._source, time.time_ns() // 1_000_000)
        if self._settings.format == "json-schema":
            value, key = HEARTBEAT_FRAME.value(value), HEARTBEAT_FRAME.key(key)
        self.send([(heartbeat_topic(self._source), value, key, 0)], self.lsn)

    def _beats_in(self) -> float:
        return self._sent_at + self._settings.heartbeat_ms / 1000 - time.monotonic()

    def push(self, *, sent: bool) -> bool:
        """Nothing follows for now: what waits for more is sent at once. ``sent``: something was, since the last call.

        Returns whether to call it again at once: Kafka has not acknowledged everything.
        """
        if sent or self._pushing:
            self._pushing = not self._publisher.push() and time.monotonic() - self._sent_at < _PUSHING_S
        return self._pushing

    def commit(self) -> None:
        """Waits until Kafka has committed all that is sent."""
        self.begin_commit()
        self.learn(wait=True)

    def commit_if_due(self, *, idle: bool) -> None:
        """Lets Kafka commit what is sent when it is time; ``idle``: nothing is waiting."""
        if self._commit_is_due(idle):
            self.begin_commit()

    def _commit_is_due(self, idle: bool) -> bool:
        begun_at = self._publisher.begun_at
        if begun_at is None:
            return False
        if self._open_rows >= _CLAIMS_IN_FLIGHT * self._settings.claim_rows or self._interval == 0:
            return True
        # Beginning another commit would wait for the one that is under way.
        now = time.monotonic()
        return not self._publisher.committing and (
            now - begun_at >= self._interval or (idle and now - self._sent_at >= self._interval * _IDLE)
        )

    def begin_commit(self) -> None:
        self._publisher.begin_commit(self.lsn)
        self._open_rows = 0

    def learn(self, *, wait: bool = False) -> None:
        """Tells of what Kafka has committed by now; ``wait``: when it has committed all that is to be."""
        committed = self._publisher.committed(wait=wait)
        if committed is not None:
            self._on_committed(committed)

    @property
    def longest_pause(self) -> float:
        """Seconds until something is due even if nothing comes; infinite if nothing is."""
        due = float("inf")
        if self._settings.heartbeat_ms:
            due = self._beats_in()
        # While a commit is under way no other is due; its end wakes the relay.
        if self._publisher.begun_at is not None and not self._publisher.committing:
            due = min(due, self._sent_at + self._interval * _IDLE - time.monotonic())
        return due
