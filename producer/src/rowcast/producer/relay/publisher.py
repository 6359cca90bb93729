"""What the leader sends, in Kafka transactions that span many claims; the last record of each claim is the marker
(``marker.py``) of its highest lsn.

Committing takes Kafka longer than everything else, and a producer can send nothing meanwhile. So there are two, the
*lanes*: while one commits, what follows goes through the other. Three rules keep the order, and
``tests/unit/protocol_model.py`` shows that each is needed: nothing goes through a lane before all that went through the
other is acknowledged, transactions are committed one after the other, and a successor fences both lanes first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from itertools import chain
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from rowcast.producer.relay.envelopes import Message
from rowcast.producer.relay.kafka_errors import error_in, meaning
from rowcast.producer.relay.lane import Lane
from rowcast.producer.relay.marker import MarkerReader, Markers, marker_message
from rowcast.shared.errors import RetriableError
from rowcast.shared.kafka import Properties

_SLICE_S = 1.0
_LONGEST_S = 60.0

# Errors that librdkafka does not call retriable. A topic just made is not known everywhere at once.
_PASSING = (
    KafkaError._TIMED_OUT,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
)


@dataclass(frozen=True, slots=True)
class _Committing:
    lsn: int
    acknowledged: Future[None]
    committed: Future[None]


class Publisher:
    """Two producers from ``init_transactions`` to their end. Any error ends them: what is not committed is published
    again by the next ones.

    ``waiting`` is called about once a second while Kafka keeps it waiting: it renews the lease and may raise.
    ``on_committed`` is called, in any thread, when ``committed`` has something to tell.
    """

    def __init__(
        self, properties: Properties, source: str, waiting: Callable[[], None], on_committed: Callable[[], None]
    ) -> None:
        self._waiting = waiting
        self._on_committed = on_committed
        self._source = source
        self._marker = MarkerReader(properties, source)
        self._lane, self._other = (Lane(properties, f"rowcast.{source}-{n}") for n in (0, 1))
        self._committing: _Committing | None = None
        self._closed = threading.Event()
        self._committer = ThreadPoolExecutor(1, "rowcast-relay-commit")

    @property
    def begun_at(self) -> float | None:
        """When the Kafka transaction that ``send`` adds to began, by ``time.monotonic``; None: none is open."""
        return self._lane.begun_at

    @property
    def committing(self) -> bool:
        """Whether Kafka is committing a transaction."""
        return self._committing is not None

    def fence(self, look: Callable[[], object]) -> None:
        """From here on no older producer of this source gets anything through, and what it left open is aborted.

        ``look`` raises FencedError if there is a successor already, whom a relay that slept should leave in peace.
        """
        for lane in (self._lane, self._other):
            look()
            self._patiently(lane.fence, "fencing the predecessor (init_transactions)")

    def markers(self) -> Markers:
        """What the predecessors' claims have left in Kafka, after ``fence``."""
        found: list[Markers] = []
        self._patiently(lambda timeout: found.append(self._marker.read(timeout)), "reading the marker")
        self._marker.close()
        return found[-1]

    def send(self, messages: Iterable[Message], lsn: int) -> None:
        """Hands messages over, in the open Kafka transaction or a new one; ``committed`` tells of failures.

        ``lsn``: the highest that Kafka holds once they are committed, their marker.

        Raises RetriableError, FencedError, or DataError for a message larger than the producer takes.
        """
        if self._committing is not None:
            self._wait(self._committing.acknowledged)
        # With each claim, not with each commit: the first record for a partition takes a transaction a round trip.
        # Not send_offsets_to_transaction: it heeds no timeout, and hangs for ever when its coordinator goes away.
        self._lane.send(chain(messages, (marker_message(self._source, lsn),)), self._waiting)

    def push(self) -> bool:
        """Nothing follows for now: sends at once what waits for more. Whether Kafka has acknowledged all of it by now:
        the first record for a partition waits for the transaction to know it, and then lingers again. Raises as
        ``send``."""
        return self._lane.begun_at is None or self._lane.push()

    def begin_commit(self, lsn: int) -> None:
        """Lets Kafka commit the open transaction, which goes up to ``lsn``, once the one before is committed: until
        then it waits. Does nothing if none is open. Raises as ``send`` and ``committed``.
        """
        if self._lane.begun_at is None:
            return
        if self._committing is not None:
            self._wait(self._committing.committed)
        lane, self._lane, self._other = self._lane, self._other, self._lane
        acknowledged = self._committer.submit(self._in_background, lane.flush, "producing")
        committed = self._committer.submit(self._commit, lane, acknowledged)
        committed.add_done_callback(lambda _: self._on_committed())
        self._committing = _Committing(lsn, acknowledged, committed)

    def _commit(self, lane: Lane, acknowledged: Future[None]) -> None:
        acknowledged.result()
        self._in_background(lane.commit, "committing the Kafka transaction")

    def committed(self, *, wait: bool = False) -> int | None:
        """The lsn of the last ``begin_commit``, once, when Kafka has committed it; ``wait``: waits for it.

        Raises RetriableError, FencedError, or DataError for a message larger than the broker takes.
        """
        committing = self._committing
        if committing is None or not (wait or committing.committed.done()):
            return None
        self._wait(committing.committed)
        self._committing = None
        return committing.lsn

    def _wait(self, future: Future[None]) -> None:
        while not wait_for((future,), _SLICE_S).done:
            self._waiting()
        future.result()

    def _in_background(self, call: Callable[[float], Any], what: str) -> None:
        # The lease is renewed by the thread that waits, or has other work to do.
        self._repeatedly(call, what, self._raise_if_closed)

    def _raise_if_closed(self) -> None:
        if self._closed.is_set():
            raise RetriableError("the relay has stopped waiting for Kafka")

    def _patiently(self, call: Callable[[float], Any], what: str) -> None:
        self._repeatedly(call, what, self._waiting)

    def _repeatedly(self, call: Callable[[float], Any], what: str, between: Callable[[], None]) -> None:
        start = time.monotonic()
        while True:
            try:
                call(_SLICE_S)
                return
            except KafkaException as error:
                reason = error_in(error)
                if not reason.retriable() and reason.code() not in _PASSING:
                    raise meaning(error, what) from error
                if time.monotonic() - start > _LONGEST_S:
                    raise RetriableError(f"Kafka did not answer for {_LONGEST_S:.0f} s: {what}") from error
                if reason.code() != KafkaError._TIMED_OUT:
                    time.sleep(_SLICE_S / 10)
            between()

    def close(self) -> None:
        """Drops what is not committed."""
        self._closed.set()
        self._committer.shutdown(cancel_futures=True)
        self._marker.close()
        for lane in (self._lane, self._other):
            lane.close()
