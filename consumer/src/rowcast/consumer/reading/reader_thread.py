"""The thread for reading Kafka: events in, whole transactions out, in step with the applier."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from itertools import groupby, repeat
from operator import is_not, itemgetter, methodcaller
from typing import Any

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.rebuild_hint import REBUILD
from rowcast.consumer.reading.backpressure import Backpressure
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.gap_detector import GapDetector
from rowcast.consumer.reading.key_partitions import ScatteredKeysError
from rowcast.consumer.reading.load import Load
from rowcast.consumer.reading.lsn_limit import LsnLimit
from rowcast.consumer.reading.message_router import MessageRouter
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.subscription import Subscription
from rowcast.consumer.reading.transaction_queue import Signal, TransactionQueue
from rowcast.consumer.reading.waiting_watch import WaitingWatch
from rowcast.shared.errors import DataError, RowcastError, SuspectError
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
_IDLE_POSITIONS_S = 1.0
# How often a reader that follows a share says until when the deletes of a quiet partition are known. Far below the time
# for which topics keep deletes.
_KNOWN_DELETES_S = 600.0

_topic_of, _number_of, _error_of = methodcaller("topic"), methodcaller("partition"), methodcaller("error")
# The elements of a pair of a place and a message.
_place_of, _message_of = itemgetter(0), itemgetter(1)


class ReaderThread:
    """Read until stopped, failed, or with ``once`` until the ends of the topics at the start.

    ``queue`` receives the transactions, and the error if reading fails. ``consumer`` is from ``new_reader``, ``asker``
    from ``new_asker``. Only the reader uses both until ``close``. ``vitals``: where the loop shows that it goes round.
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
        self._layouts = context.layouts
        self._loading = context.loading
        self._is_part = context.share is not None
        self._follows = context.share is not None and context.share.follows
        self.ends: dict[Partition, int] = {}
        """The ends of all partitions of the topics when a reader of a share had read its own partitions."""
        self._limit = LsnLimit(context.until_lsn)
        self._load = Load(context, self._subscription, self._router)
        self._bad_message: DataError | None = None
        self._bad_stream: PartitionStream | None = None
        self._vanished: list[PartitionStream] = []
        self._last_put_at = time.monotonic()
        self._idle_positions_at = self._known_deletes_at = 0.0
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
            self._router.history.applied_end_lsn = max(ends, default=0)
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
        self._load.close()

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
                timeout = _COMMIT_POLL_S if self._load.waits_for_commit else _POLL_S
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
        groups: dict[PartitionStream, list[Any]] = {}
        # An error is compared with None by identity, because an error refuses a comparison by value.
        are_errors = map(is_not, map(_error_of, messages), repeat(None))
        places = zip(map(_topic_of, messages), map(_number_of, messages), are_errors, strict=True)
        # Kafka's client returns the messages of a partition in runs.
        for (topic, number, is_error), run in groupby(zip(places, messages, strict=True), _place_of):
            stream = self._subscription.streams[topic, number]
            if not is_error:
                groups.setdefault(stream, []).extend(map(_message_of, run))
                continue
            for _, message in run:
                self._route_stream(stream, groups.pop(stream, ()))
                self._handle_error(stream, message, message.error())
        for stream, group in groups.items():
            self._route_stream(stream, group)

    def _route_stream(self, stream: PartitionStream, messages: Sequence[Any]) -> None:
        if not messages or stream is self._bad_stream or stream.is_cut:
            return
        wanted = self._limit.wanted(stream, messages)
        try:
            if wanted:
                self._router.take(stream, wanted)
            if len(wanted) < len(messages):
                self._subscription.end_before(stream, messages[len(wanted)].offset())
        except DataError as bad:
            # Everything before the bad message, also in other partitions, is applied first.
            self._bad_message, self._bad_stream = bad, stream
            self._subscription.pause(stream)
        except ScatteredKeysError as error:
            if not self._follows:
                raise
            raise DataError(
                f"{error}, and workers that read the partitions by themselves would lose the order of its events. "
                f'{REBUILD}, or use consistency = "transaction"'
            ) from error

    def _handle_error(self, stream: PartitionStream, message: Any, error: Any) -> None:
        if stream is self._bad_stream or stream.is_cut:
            # The end of the partition must not become the position, because messages before the end are unread.
            return
        match error.name():
            case "_PARTITION_EOF":
                stream.at_end = True
                if message.offset() < stream.next_offset:
                    self._subscription.restart(stream)
                # Control records, which no client sees, have offsets too.
                stream.next_offset = max(stream.next_offset, message.offset())
                self._router.lost_deletes.note_end(stream)
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
        self._subscription.discover(at_once=self._router.new_shapes.were_read)
        self._router.new_shapes.were_read = False
        self._subscription.compare_ids()
        self._raise_bad_message()
        if self._vanished:
            self._restart_vanished()
        elif self._is_part:
            # Another reader cuts over, after all shares, or none does.
            self._report_ends()
        elif self._loading:
            self._finish_loading()
        elif self._router.history.stale_partition is not None:
            topic = self._router.history.stale_partition[0]
            self._return_to_loading(f"topic {topic} has events from before the replica included its table")
        elif tables := self._layouts.tables_lacking_rows():
            self._return_to_loading(f"the snapshot of {', '.join(tables)} is not complete")
        elif (gap := self._gap_detector.find_gap()) is not None and not self._router.assembler.complete_skipped():
            first_end = self._router.assembler.first_end
            self._return_to_loading(gap, None if first_end is None else first_end.ts_ms)
        self._waiting_watch.look()
        if self._once and self._is_done() and (self.ends or not self._follows):
            self._waiting_watch.report_rest()
            self.queue.put([Signal.DONE])
            return True
        self._put_idle_positions()
        return False

    def _raise_bad_message(self) -> None:
        if self._bad_message is None:
            return
        if isinstance(self._bad_message, SuspectError):
            # Nothing of the new timeline may be applied while the reader waits for earlier transactions.
            raise self._bad_message
        if self._router.cutover.by_key or time.monotonic() - self._last_put_at > _BAD_MESSAGE_GRACE_S:
            raise self._bad_message

    def _finish_loading(self) -> None:
        """Report LOADED when everything up to the cutover has been read."""
        if self._load.is_complete():
            self._put_ready()
            self._loading = False
            self._router.cutover.finish()
            self.queue.put([Signal.LOADED])

    def _report_ends(self) -> None:
        """Report FOLLOWING once, when a share that is to be followed has been read up to the ends."""
        if not self._follows or self.ends or self._load.lacks_rows() or not self._router.is_empty:
            return
        if not self._subscription.awaits_topics and self._has_reached_targets():
            self.ends = self._subscription.all_ends()
            self._put_idle_positions(at_once=True)
            self.queue.put([Signal.FOLLOWING])

    def _has_reached_targets(self) -> bool:
        return all(stream.target_reached for stream in self._subscription.streams.values())

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

        Raise DataError if a topic was created again, because its first records would be skipped. Raise DataError if the
        reader has a last lsn, because only transactions lead to the state at this lsn.
        """
        if self._limit.exists:
            raise DataError(f"{reason}, so the state at an earlier lsn is lost")
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
        if self._subscription.awaits_topics or not self._has_reached_targets():
            return False
        if self._is_part:
            return self._router.is_empty
        if self._loading:
            return self._load.may_never_end
        first_end = self._router.assembler.first_end
        targets = {s.partition: s.target for s in self._subscription.streams_of_kind("transaction")}
        return first_end is None or all(
            position.next_offset > targets[partition] for partition, position in first_end.positions.items()
        )

    def _put_idle_positions(self, *, at_once: bool = False) -> None:
        """Move the replica's positions past records without changes. The lag becomes 0."""
        now = time.monotonic()
        is_due = at_once or now - self._idle_positions_at >= _IDLE_POSITIONS_S
        if not is_due or not self._router.is_empty:
            return
        self._idle_positions_at = now
        idle = self._router.pop_idle(self._subscription.streams.values())
        is_quiet = self._follows and now - self._known_deletes_at > _KNOWN_DELETES_S
        if idle.positions != self._idle_positions or is_quiet:
            self._idle_positions, self._known_deletes_at = idle.positions, now
            self.queue.put([idle])
