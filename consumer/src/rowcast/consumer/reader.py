"""The thread that reads Kafka: events in, whole transactions out, in step with what the applier takes."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rowcast.consumer.changes import Partition
from rowcast.consumer.committed import CommittedMarks
from rowcast.consumer.flow import Flow
from rowcast.consumer.gaps import GapWatch
from rowcast.consumer.handover import Handover, Mark
from rowcast.consumer.intake import Intake
from rowcast.consumer.layouts import Layouts
from rowcast.consumer.positions import Position
from rowcast.consumer.streams import Stream
from rowcast.consumer.subscription import Subscription
from rowcast.consumer.transactions import Transaction
from rowcast.shared.config import Settings
from rowcast.shared.errors import DataError

_log = logging.getLogger("rowcast.worker")

# Wait for the first message this long, then take what else has come. Also how soon the thread sees that it must stop.
_POLL_S = 0.1
_MOST_MESSAGES = 5_000
# How long nothing must come out of the merge before a message that cannot be read is what everything waits for.
_QUIET_S = 0.5
# The last transaction's END may have been deleted with old segments of its topic: this long it is waited for.
_END_GRACE_S = 2.0
_IDLE_REPORT_S = 1.0


class Reader:
    """Reads until it is stopped, fails, or with ``once`` has come to the topics' ends as they were at the start."""

    def __init__(
        self,
        settings: Settings,
        layouts: Layouts,
        positions: Mapping[Partition, Position],
        *,
        batch_events: int,
        buffer_events: int,
        by_key: bool,
        last_transaction: str | None,
        once: bool,
    ) -> None:
        self.handover = Handover()
        self._most_messages = min(batch_events, _MOST_MESSAGES)
        self._once = once
        self._subscription = Subscription(settings, layouts, positions)
        self._intake = Intake(settings, layouts, by_key=by_key, last_transaction=last_transaction)
        self._gaps = GapWatch(self._subscription, self._intake.merge)
        self._flow = Flow(self._subscription, self._intake.merge, buffer_events)
        self._settings = settings
        self._loading = by_key
        self._waits_for_seam_since = math.inf
        self._committed: CommittedMarks | None = None
        self._seam_is_whole = False
        self._bad: DataError | None = None
        self._bad_stream: Stream | None = None
        self._gave_at = time.monotonic()
        self._reported_at = 0.0
        self._reported: dict[Partition, Position] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rowcast-reader", daemon=True)
        if not by_key:
            self._intake.ended_lsn = max((s.lsn for s in self._subscription.of_kind("transaction")), default=0)
        if not by_key and self._subscription.lost_transactions:
            self._catch_up("the transaction topic no longer holds what comes next")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stops reading and waits for the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._subscription.close()
        if self._committed is not None:
            self._committed.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if not self._flow.may_read(self.handover.events, self._bad_stream):
                    self.handover.wait_for_room(_POLL_S)
                    continue
                self._take(self._subscription.messages(_POLL_S, self._most_messages))
                self._give()
                if self._look_around():
                    return
        except BaseException as error:  # noqa: BLE001  # the applier raises it
            self.handover.fail(error)

    def _take(self, messages: Sequence[Any]) -> None:
        """Sorts messages by their streams: only within one does their order matter."""
        streams = self._subscription.streams
        by_stream: dict[Stream, list[Any]] = {}
        for message in messages:
            stream = streams[message.topic(), message.partition()]
            error = message.error()
            if error is not None:
                self._take_in(stream, by_stream.pop(stream, ()))
                self._take_error(stream, message, error)
            elif (same := by_stream.get(stream)) is not None:
                same.append(message)
            else:
                by_stream[stream] = [message]
        for stream, same in by_stream.items():
            self._take_in(stream, same)

    def _take_in(self, stream: Stream, messages: Sequence[Any]) -> None:
        if not messages or stream is self._bad_stream:
            return
        try:
            self._intake.take(stream, messages)
        except DataError as bad:
            # What comes before it, in other partitions too, is applied first.
            self._bad, self._bad_stream = bad, stream
            self._subscription.pause(stream)

    def _take_error(self, stream: Stream, message: Any, error: Any) -> None:
        match error.name():
            case "_PARTITION_EOF":
                stream.at_end = True
                # Control records, which no client sees, have offsets too.
                stream.next_offset = max(stream.next_offset, message.offset())
            case "_AUTO_OFFSET_RESET" | "OFFSET_OUT_OF_RANGE":
                self._catch_up(f"{stream.where(stream.next_offset)} is no longer there")
                self._subscription.restart(stream)
            case _:
                _log.warning("%s: %s", stream.where(stream.next_offset), error.str())

    def _give(self) -> None:
        transactions = self._intake.out(self._subscription.of_kind("transaction"))
        if transactions:
            self._gave_at = time.monotonic()
            self.handover.put(transactions)

    def _look_around(self) -> bool:
        """Everything that is not messages. True: nothing more is to be read."""
        self._subscription.discover(at_once=self._intake.new_shapes)
        self._intake.new_shapes = False
        if self._bad is not None and (self._intake.by_key or time.monotonic() - self._gave_at > _QUIET_S):
            raise self._bad
        if self._loading:
            self._finish_loading()
        elif self._intake.past is not None:
            self._catch_up(f"topic {self._intake.past[0]} has events from before this replica began with it")
        elif (gap := self._gaps.found()) is not None:
            self._catch_up(gap)
        if self._once and self._is_done():
            self.handover.put([Mark.DONE])
            return True
        self._report_when_idle()
        return False

    def _finish_loading(self) -> None:
        """The replica is where the primary was once everything up to the seam has been read, in every partition.

        One partition may have been read far ahead of the others, and an END may be seen before an event that it
        counts. So when the seam's END is *committed* in Kafka, and every event before it with it, the partitions' ends
        as they are then are read up to.
        """
        streams = self._subscription.streams.values()
        if self._intake.by_key:
            if self._subscription.may_be_found or not all(stream.reached for stream in streams):
                return
            self._intake.end_by_key(self._subscription.of_kind("table"))
            self._waits_for_seam_since = time.monotonic()
            self._seam_is_whole = False
        if not self._seam_is_whole:
            if not self._seam_is_committed():
                return
            self._seam_is_whole = True
            self._subscription.set_targets()
        if all(stream.reached for stream in streams):
            self._loading = False
            self.handover.put([Mark.LOADED])

    def _seam_is_committed(self) -> bool:
        transactions = list(self._subscription.of_kind("transaction"))
        if not all(self._intake.seam_passed(stream) for stream in transactions):
            # Its END may have been deleted with old segments, long after it was committed.
            waited = time.monotonic() - self._waits_for_seam_since
            at_end = all(s.at_end for s in self._subscription.streams.values())
            return at_end and not self._intake.seam_is_open and waited > _END_GRACE_S
        for stream in transactions if self._intake.seam_lsn else ():
            if self._committed is None:
                low = self._subscription.low(stream)
                self._committed = CommittedMarks(self._settings, stream.partition, low, stream.next_offset)
            if not self._committed.reach(self._intake.seam_lsn):
                return False
        if self._committed is not None:
            self._committed.close()
            self._committed = None
        return True

    def _catch_up(self, reason: str) -> None:
        """Back to loading: up to the topics' ends as they are now, by key."""
        _log.warning("%s: catching up by key, the replica is loading until the topics' ends are applied", reason)
        self.handover.put([Mark.GAP])
        self._subscription.set_targets()
        self._intake.start_by_key(self._subscription.of_kind("table"))
        self._loading = True

    def _is_done(self) -> bool:
        if self._intake.by_key or self._subscription.may_be_found:
            return False
        if not all(s.reached for s in self._subscription.streams.values()):
            return False
        if self._loading:
            # The transaction at the seam has not ended: there is nobody to wait for if the relay is not running.
            return time.monotonic() - self._waits_for_seam_since > _END_GRACE_S
        head = self._intake.merge.head
        targets = {s.partition: s.target for s in self._subscription.of_kind("transaction")}
        return head is None or all(position.next_offset > targets[p] for p, position in head.reach.items())

    def _report_when_idle(self) -> None:
        """Moves the positions past what is nothing to apply, so that lag becomes 0."""
        now = time.monotonic()
        if now - self._reported_at < _IDLE_REPORT_S or not self._intake.holds_nothing:
            return
        self._reported_at = now
        positions = {s.partition: s.position for s in self._subscription.streams.values() if s.kind != "schema"}
        if positions != self._reported:
            self._reported = positions
            self.handover.put([Transaction(None, 0, 0, reach=positions, by_key=self._intake.by_key)])
