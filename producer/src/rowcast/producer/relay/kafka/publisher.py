"""Publish claims in Kafka transactions that span many claims. The last record of each claim is its marker.

A commit takes Kafka longer than all other steps, and a producer cannot send during its commit. The relay therefore has
two producers: during the commit of the first, the relay sends through the second, and vice versa. Three rules keep the
order, and ``tests/models/test_relay_protocol.py`` shows that each rule is needed:

* The relay sends through a producer only after Kafka has acknowledged all messages of the other producer.
* Transactions are committed one after another.
* A new leader fences both producers of its predecessor before anything else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from rowcast.producer.relay.kafka.errors import error_in, to_rowcast_error
from rowcast.producer.relay.kafka.idle_contact import IdleContact
from rowcast.producer.relay.kafka.marker import MarkerReader, Markers, marker_message
from rowcast.producer.relay.kafka.transactional_producer import TransactionalProducer
from rowcast.producer.relay.messages.envelopes import Message
from rowcast.producer.relay.upkeep.silent_kafka import Unanswered
from rowcast.shared import row_values
from rowcast.shared.errors import RetriableError
from rowcast.shared.kafka.client_errors import is_transient
from rowcast.shared.kafka.clients import Properties
from rowcast.shared.kafka.signature import Signer
from rowcast.shared.kafka.topic_names import marker_topic

_COMMITTING = "committing the Kafka transaction"
_ATTEMPT_S = 1.0
_GIVE_UP_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class _Commit:
    """Hold a Kafka transaction that is being committed, and since when. ``lsn``: its highest lsn."""

    lsn: int
    since: float
    acknowledged: Future[None]
    committed: Future[None]


class Publisher:
    """Send the claims of one leader through two transactional producers.

    Any error ends the publisher. The next leader publishes again whatever is not committed.

    ``renew_lease`` is called about once a second while the publisher waits for Kafka, and may raise. ``on_committed``
    is called, in any thread, when ``take_committed`` has a result.
    """

    def __init__(
        self,
        properties: Properties,
        source: str,
        renew_lease: Callable[[], None],
        on_committed: Callable[[], None],
        signer: Signer | None = None,
    ) -> None:
        self._renew_lease = renew_lease
        self._signer = signer or Signer(source, ())
        self._on_committed = on_committed
        self._source = source
        self._marker = MarkerReader(properties, source)
        self.timeline = 1
        self._active, self._other = (TransactionalProducer(properties, f"rowcast.{source}-{n}") for n in (0, 1))
        self._commit: _Commit | None = None
        self._asked: tuple[str, float] | None = None
        self._servers = properties.get("bootstrap.servers")
        self._closed = threading.Event()
        self._committer = ThreadPoolExecutor(1, "rowcast-relay-commit", row_values.show, (row_values.are_shown(),))
        # The topic exists, and the producer needs its metadata anyway.
        ask = partial(self._active.ask_for_brokers, marker_topic(source))
        self._contact = IdleContact(self._committer, ask)

    @property
    def begun_at(self) -> float | None:
        """Return when the open Kafka transaction began, by ``time.monotonic``, or None if no transaction is open."""
        return self._active.begun_at

    @property
    def committing(self) -> bool:
        """Return whether Kafka is committing a transaction."""
        return self._commit is not None

    def unanswered(self) -> Unanswered | None:
        """Return what Kafka was asked for last and has not answered yet, or None."""
        commit, asked = self._commit, self._asked
        if commit is not None and not commit.committed.done():
            asked = (_COMMITTING, commit.since)
        elif asked is None and (since := self._contact.unanswered_since) is not None:
            asked = ("asking for the brokers", since)
        return None if asked is None else Unanswered(asked[0], time.monotonic() - asked[1])

    def ask_if_idle(self) -> None:
        """Ask Kafka for the brokers from time to time if no Kafka transaction is open or being committed."""
        if self._commit is None and self._active.begun_at is None:
            self._contact.ask_if_due()

    def fence(self, check_epoch: Callable[[], object]) -> None:
        """Fence the older producers of this source, and abort the Kafka transactions that they left open.

        ``check_epoch`` is called before each producer. ``check_epoch`` raises FencedError if a successor has taken
        over, because a suspended relay must not fence its successor.
        """
        for producer in (self._active, self._other):
            check_epoch()
            self._retry_until_done(producer.fence, "fencing the predecessor (init_transactions)")

    def peek_markers(self) -> Markers:
        """Return the last markers before ``fence``. A predecessor may still send."""
        found: list[Markers] = []
        self._retry_until_done(lambda timeout: found.append(self._marker.read(timeout)), "reading the marker")
        return found[-1]

    def markers(self) -> Markers:
        """Return the last markers of the predecessors. Call it after ``fence``."""
        markers = self.peek_markers()
        self._marker.close()
        return markers

    def send(self, messages: Iterable[Message], lsn: int) -> None:
        """Send messages and a marker in the open Kafka transaction, or in a new one.

        ``lsn``: the lsn of the marker, the highest lsn in Kafka after the commit. Raises RetriableError, FencedError,
        or DataError for a message that is too large for the producer. ``take_committed`` raises later failures.
        """
        if self._commit is not None:
            self._wait(self._commit.acknowledged)
        # Each claim gets a marker, not only each commit: the first record of a transaction to a partition costs a
        # round trip. send_offsets_to_transaction is no alternative, because it ignores its timeout and hangs for ever
        # when its coordinator fails.
        marked = chain(self._signer.signed(messages), (marker_message(self._source, lsn, self.timeline),))
        self._active.send(marked, self._renew_lease)

    def push(self) -> bool:
        """Send at once the messages that linger in the producer, because no further messages follow for now.

        Returns whether Kafka has acknowledged everything. If not, call it again: the first record to a partition waits
        until the transaction includes the partition, and then lingers again. Raises as ``send``.
        """
        return self._active.begun_at is None or self._active.push()

    def begin_commit(self, lsn: int) -> None:
        """Begin to commit the open Kafka transaction, whose highest lsn is ``lsn``. Do nothing if none is open.

        First waits until the previous transaction is committed. Raises as ``send`` and ``take_committed``.
        """
        if self._active.begun_at is None:
            return
        if self._commit is not None:
            self._wait(self._commit.committed)
        producer, self._active, self._other = self._active, self._other, self._active
        acknowledged = self._committer.submit(self._retry_in_background, producer.flush, "producing")
        committed = self._committer.submit(self._commit_transaction, producer, acknowledged)
        committed.add_done_callback(lambda _: self._on_committed())
        self._commit = _Commit(lsn, time.monotonic(), acknowledged, committed)

    def _commit_transaction(self, producer: TransactionalProducer, acknowledged: Future[None]) -> None:
        acknowledged.result()
        self._retry_in_background(producer.commit, _COMMITTING)

    def take_committed(self, *, wait: bool = False) -> int | None:
        """Return the lsn of the last ``begin_commit`` once Kafka has committed it, and None from then on.

        ``wait``: wait until Kafka has committed it. Raises RetriableError, FencedError, or DataError for a message that
        is too large for the broker.
        """
        commit = self._commit
        if commit is None or not (wait or commit.committed.done()):
            return None
        self._wait(commit.committed)
        self._commit = None
        self._contact.note_answer()
        return commit.lsn

    def _wait(self, future: Future[None]) -> None:
        while not wait_for((future,), _ATTEMPT_S).done:
            self._renew_lease()
        future.result()

    def _retry_in_background(self, call: Callable[[float], Any], action: str) -> None:
        # The main thread renews the lease, while it waits for the commit or has other work.
        self._retry(call, action, self._raise_if_closed)

    def _raise_if_closed(self) -> None:
        if self._closed.is_set():
            raise RetriableError("the relay has stopped waiting for Kafka")

    def _retry_until_done(self, call: Callable[[float], Any], action: str) -> None:
        self._asked = action, time.monotonic()
        self._retry(call, action, self._renew_lease)
        self._asked = None

    def _retry(self, call: Callable[[float], Any], action: str, between: Callable[[], None]) -> None:
        """Call ``call`` with a timeout of a second, again after transient errors, for about a minute.

        ``between`` is called after each failed attempt, and may raise. Raises RetriableError if Kafka does not answer
        in time, and any other error as a ``RowcastError`` that names ``action``.
        """
        start = time.monotonic()
        while True:
            try:
                call(_ATTEMPT_S)
                return
            except KafkaException as error:
                reason = error_in(error)
                if not is_transient(reason):
                    raise to_rowcast_error(error, action) from error
                if time.monotonic() - start > _GIVE_UP_AFTER_S:
                    raise RetriableError(
                        f"Kafka at {self._servers} did not answer for {_GIVE_UP_AFTER_S:.0f} s: {action}"
                    ) from error
                if reason.code() != KafkaError._TIMED_OUT:
                    time.sleep(_ATTEMPT_S / 10)
            between()

    def close(self) -> None:
        """Close the producers, and drop whatever is not committed."""
        self._closed.set()
        self._committer.shutdown(cancel_futures=True)
        self._marker.close()
        for producer in (self._active, self._other):
            producer.close()
