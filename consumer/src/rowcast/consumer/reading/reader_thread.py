"""The thread for reading Kafka: events in, whole transactions out, in step with the applier."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.reading.backpressure import Backpressure
from rowcast.consumer.reading.committed_transactions import CommittedTransactions
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.gap_detector import GapDetector
from rowcast.consumer.reading.message_router import MessageRouter
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.subscription import Subscription
from rowcast.consumer.reading.transaction_queue import Signal, TransactionQueue
from rowcast.consumer.reading.waiting_watch import WaitingWatch
from rowcast.shared.errors import DataError, RowcastError
from rowcast.shared.vitals import Vitals

_log = logging.getLogger("rowcast.worker")

# The time to wait for the first message, and the time within which the thread notices a stop.
_POLL_S = 0.1
# The wait while another consumer looks for a commit. Without new messages, the commit would be noticed only afterwards.
_COMMIT_POLL_S = 0.02
_MAX_MESSAGES = 5_000
# An unreadable message becomes an error after half a second without a complete transaction, because then nothing else
# can come first.
_BAD_MESSAGE_GRACE_S = 0.5
# The END of the last transaction may have been deleted with old segments of the topic. Wait two seconds for the END.
_END_GRACE_S = 2.0
_IDLE_POSITIONS_S = 1.0


class ReaderThread:
    """Read until stopped, failed, or with ``once`` until the ends that the topics had at the start.

    ``queue`` receives the transactions, and the error if reading fails. ``consumer`` is from ``new_reader``, ``asker``
    from ``new_asker``. Only the reader uses them until ``close``. ``vitals``: where the loop shows that it goes round.
    """

    def __init__(self, context: ReaderContext, consumer: Any, asker: Any, vitals: Vitals | None = None) -> None:
        self._vitals = vitals or Vitals("a reader")
        self.queue = TransactionQueue()
        self._settings = context.settings
        self._once = context.once
        self._max_messages = min(context.batch_events, _MAX_MESSAGES)
        self._topic_ids = context.topic_ids
        self._subscription = Subscription(context, consumer, asker)
        self._router = MessageRouter(context)
        self._gap_detector = GapDetector(self._subscription, self._router.assembler)
        self._waiting_watch = WaitingWatch(context.replica, self._subscription, self._router.assembler)
        self._backpressure = Backpressure(
            self._subscription, self._router.assembler, self._router.merge, context.buffer_events
        )
        self._notes = context.layouts.notes
        self._loading = context.loading
        self._awaited_snapshots = False
        self._cutover_since = math.inf
        self._committed: CommittedTransactions | None = None
        self._cutover_is_committed = False
        self._bad_message: DataError | None = None
        self._bad_stream: PartitionStream | None = None
        self._vanished: list[PartitionStream] = []
        self._last_put_at = time.monotonic()
        self._idle_positions_at = 0.0
        self._idle_positions: dict[Partition, Position] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(
            # With the context of the worker, because it says whether messages may show values.
            target=copy_context().run,
            args=(self._run,),
            name="rowcast-reader",
            daemon=True,
        )
        if not context.loading:
            ends = (stream.lsn for stream in self._subscription.streams_of_kind("transaction"))
            self._router.applied_end_lsn = max(ends, default=0)
            if self._subscription.lost_ends:
                self._return_to_loading("the transaction topic no longer holds the records that come next")

    @property
    def deletes_known_ms(self) -> int:
        """Return the time before which the replica knows all deletes, while it loads. 0: the time is not known."""
        return self._router.lost_deletes.known_ms

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading and wait for the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._committed is not None:
            self._committed.close()

    @property
    def unanswered_s(self) -> float:
        """Return for how long Kafka has not answered."""
        return self._topic_ids.unanswered_s

    def _run(self) -> None:
        # A reader that has read everything has no pulse, because the applier may need long for the rest.
        with self._vitals.pulse("reading") as pulse:
            self._read(pulse.beat)

    def _read(self, beat: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                beat()
                if not self._backpressure.may_read(self.queue.event_count, self._bad_stream):
                    self.queue.wait_for_room(_POLL_S)
                    continue
                timeout = _POLL_S if self._committed is None else _COMMIT_POLL_S
                self._route(self._subscription.poll(timeout, self._max_messages))
                self._put_ready()
                if self._housekeeping():
                    return
        except DataError as error:
            self.queue.fail(self._cause_of(error))
        except BaseException as error:  # noqa: BLE001  # the applier raises it
            self.queue.fail(error)

    def _cause_of(self, error: DataError) -> RowcastError:
        """Return the error about a topic created again, if a new topic explains the contradiction of the messages."""
        try:
            self._subscription.compare_ids(at_once=True)
        except RowcastError as cause:
            return cause if isinstance(cause, DataError) else error
        return error

    def _route(self, messages: Sequence[Any]) -> None:
        """Group messages by stream, because the order of messages matters only within a stream."""
        streams = self._subscription.streams
        by_stream: dict[PartitionStream, list[Any]] = {}
        for message in messages:
            stream = streams[message.topic(), message.partition()]
            error = message.error()
            if error is not None:
                self._route_stream(stream, by_stream.pop(stream, ()))
                self._handle_error(stream, message, error)
            elif (group := by_stream.get(stream)) is not None:
                group.append(message)
            else:
                by_stream[stream] = [message]
        for stream, group in by_stream.items():
            self._route_stream(stream, group)

    def _route_stream(self, stream: PartitionStream, messages: Sequence[Any]) -> None:
        if not messages or stream is self._bad_stream:
            return
        try:
            self._router.take(stream, messages)
        except DataError as bad:
            # Everything before the bad message, also in other partitions, is applied first.
            self._bad_message, self._bad_stream = bad, stream
            self._subscription.pause(stream)

    def _handle_error(self, stream: PartitionStream, message: Any, error: Any) -> None:
        if stream is self._bad_stream:
            # The end of the partition must not become the position, because the bad message comes before the end.
            return
        match error.name():
            case "_PARTITION_EOF":
                stream.at_end = True
                if message.offset() < stream.next_offset:
                    self._subscription.restart(stream)
                # Control records, which no client sees, have offsets too.
                stream.next_offset = max(stream.next_offset, message.offset())
            case "_AUTO_OFFSET_RESET" | "OFFSET_OUT_OF_RANGE":
                # All messages of the poll are routed first.
                self._vanished.append(stream)
            case _:
                _log.warning("%s: %s", stream.where(stream.next_offset), error.str())

    def _put_ready(self) -> None:
        transactions = self._router.pop_ready(self._subscription.streams.values())
        if transactions:
            self._last_put_at = time.monotonic()
            self.queue.put(transactions)

    def _housekeeping(self) -> bool:
        """Do everything but reading messages. Return True if nothing more is to be read."""
        self._subscription.discover(at_once=self._router.has_new_shapes)
        self._router.has_new_shapes = False
        self._subscription.compare_ids()
        self._raise_bad_message()
        if self._vanished:
            self._restart_vanished()
        elif self._loading:
            self._finish_loading()
        elif self._router.stale_partition is not None:
            topic = self._router.stale_partition[0]
            self._return_to_loading(f"topic {topic} has events from before the replica included its table")
        elif tables := self._notes.tables_lacking_rows():
            self._return_to_loading(f"the snapshot of {', '.join(tables)} is not complete")
        elif (gap := self._gap_detector.find_gap()) is not None and not self._router.assembler.complete_skipped():
            first_end = self._router.assembler.first_end
            self._return_to_loading(gap, None if first_end is None else first_end.ts_ms)
        self._waiting_watch.look()
        if self._once and self._is_done():
            self._waiting_watch.report_rest()
            self.queue.put([Signal.DONE])
            return True
        self._put_idle_positions()
        return False

    def _raise_bad_message(self) -> None:
        if self._bad_message is None:
            return
        if self._router.by_key or time.monotonic() - self._last_put_at > _BAD_MESSAGE_GRACE_S:
            raise self._bad_message

    def _finish_loading(self) -> None:
        """Cut over at the topics' ends, and report LOADED when everything up to the cutover has been read.

        One partition may have been read far ahead of the others, and an END may be visible before a counted event.
        Therefore the END at the cutover must first be *committed* in Kafka, together with every earlier event. Then all
        partitions are read up to the new ends.
        """
        streams = self._subscription.streams.values()
        if self._router.by_key:
            if self._lacks_rows():
                return
            if self._subscription.awaits_topics or not all(stream.target_reached for stream in streams):
                return
            self._router.cut_over(list(self._subscription.streams_of_kind("table")))
            self._cutover_since = time.monotonic()
            self._cutover_is_committed = False
        if not self._cutover_is_committed:
            if not self._check_cutover_committed():
                return
            self._cutover_is_committed = True
            self._subscription.set_targets()
        # A busy partition need not be read to its end, because its later events belong to later transactions.
        if all(s.target_reached or (s.kind == "table" and self._router.is_past_cutover(s)) for s in streams):
            self._put_ready()
            self._loading = False
            self._router.finish_cutover()
            self.queue.put([Signal.LOADED])

    def _lacks_rows(self) -> bool:
        """Return whether the initial snapshot of a table is not complete in Kafka.

        The relay says so on the schema topic, after Kafka has committed the last chunk. The partitions are then read up
        to their ends of that moment, which are behind all chunks.
        """
        if tables := self._notes.tables_lacking_rows():
            if not self._awaited_snapshots:
                _log.info("loading until the snapshots of %s are complete", ", ".join(tables))
            self._awaited_snapshots = True
        elif self._awaited_snapshots:
            self._awaited_snapshots = False
            self._subscription.set_targets()
        return bool(tables)

    def _check_cutover_committed(self) -> bool:
        """Return whether Kafka has committed the END at the cutover."""
        transaction_streams = list(self._subscription.streams_of_kind("transaction"))
        if not all(self._router.has_passed_cutover(stream) for stream in transaction_streams):
            # The END may have been deleted with old segments, long after its commit.
            waited_s = time.monotonic() - self._cutover_since
            at_end = all(s.at_end for s in self._subscription.streams.values())
            return at_end and not self._router.cutover_is_open and waited_s > _END_GRACE_S
        for stream in transaction_streams if self._router.cutover_lsn else ():
            if self._committed is None:
                first_offset = self._subscription.first_offset(stream)
                self._committed = CommittedTransactions(
                    self._settings, stream.partition, first_offset, stream.next_offset
                )
            if not self._committed.include(self._router.cutover_lsn):
                return False
        if self._committed is not None:
            self._committed.close()
            self._committed = None
        return True

    def _restart_vanished(self) -> None:
        """Read on from the first offsets of the partitions that no longer have the offset to be read next."""
        vanished, self._vanished = self._vanished, []
        where = ", ".join(stream.where(stream.next_offset) for stream in vanished if stream.kind != "schema")
        for stream in vanished:
            self._subscription.restart(stream)
        if where:
            self._return_to_loading(f"{where} is no longer there")

    def _return_to_loading(self, reason: str, first_lost_ms: int | None = None) -> None:
        """Load by key again, from the replica's positions up to the present ends of the topics.

        Raise DataError if a topic was created again, because its first records would be skipped.
        """
        self._subscription.compare_ids(at_once=True)
        _log.warning("%s: catching up by key, the replica is loading until the topics' ends are applied", reason)
        rewound = self._router.return_to_loading(list(self._subscription.streams_of_kind("table")), first_lost_ms)
        self.queue.put([Signal.GAP])
        self._subscription.set_targets()
        for stream in rewound:
            self._subscription.seek(stream)
        self._loading = True

    def _is_done(self) -> bool:
        """Return whether everything up to the targets has been read and put into the queue."""
        if self._subscription.awaits_topics or not all(s.target_reached for s in self._subscription.streams.values()):
            return False
        if self._router.by_key:
            # Without a running relay, an incomplete snapshot never ends.
            return self._awaited_snapshots
        if self._loading:
            # The transaction at the cutover has not ended. Without a running relay, its END never comes.
            return time.monotonic() - self._cutover_since > _END_GRACE_S
        first_end = self._router.assembler.first_end
        targets = {s.partition: s.target for s in self._subscription.streams_of_kind("transaction")}
        return first_end is None or all(
            position.next_offset > targets[partition] for partition, position in first_end.positions.items()
        )

    def _put_idle_positions(self) -> None:
        """Move the replica's positions past records without changes. The lag becomes 0."""
        now = time.monotonic()
        if now - self._idle_positions_at < _IDLE_POSITIONS_S or not self._router.is_empty:
            return
        self._idle_positions_at = now
        idle = self._router.pop_idle(self._subscription.streams.values())
        if idle.positions != self._idle_positions:
            self._idle_positions = idle.positions
            self.queue.put([idle])
