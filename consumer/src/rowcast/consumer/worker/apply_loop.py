"""Apply the reader's transactions, until the worker is stopped, has done everything, or has lost its claim."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from rowcast.consumer.events.position import Partition, Position, ReplicaState, are_of_applied_events
from rowcast.consumer.events.transactions import Run
from rowcast.consumer.reading.transaction_queue import Signal, TransactionQueue
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.positions import ReplicaRow
from rowcast.consumer.worker.consistency_attempts import ConsistencyAttempts
from rowcast.consumer.worker.group_turn import GroupTurn
from rowcast.consumer.worker.pace import Pace
from rowcast.consumer.worker.patience import Patience
from rowcast.consumer.worker.progress import ProgressReport
from rowcast.consumer.worker.source_format import SourceReader
from rowcast.consumer.worker.turn import Turn
from rowcast.shared.errors import RetriableError

_log = logging.getLogger("rowcast.worker")

_TAKE_TIMEOUT_S = 0.1
_OFFSET_COMMIT_S = 1.0
_COMPARE_S = 5.0
# The time between two looks whether all workers of the group have caught up.
_FOLLOW_S = 1.0
# A worker without an answer of Kafka for this time makes no progress, although the loop goes round.
_UNANSWERED_S = 5.0
# A worker meets the error of the predecessor again within a second.
_CLEAR_STOP_S = 3.0


class ApplyLoop:
    """Apply to a replica that was taken over. ``row``: the replica's row at the takeover.

    ``has_applied``: whether an event was applied before. ``once``: end when the rest is too young for the pace.
    """

    def __init__(
        self,
        replica: Replica,
        turn: Turn | GroupTurn,
        patience: Patience,
        report: ProgressReport,
        row: ReplicaRow,
        *,
        has_applied: bool,
        batch_events: int,
        pace: Pace,
        once: bool,
    ) -> None:
        self._replica = replica
        self._turn = turn
        self._patience = patience
        self._report = report
        self._pace = pace
        self._batch_events = pace.batch_events(batch_events)
        self._once = once
        self._rest_until = 0.0
        self._has_applied = has_applied
        self._stop_recorded = row.reason is not None
        self._consistency = ConsistencyAttempts()
        self._was_consistent = row.state == "consistent"
        self._uncommitted: dict[Partition, Position] = {}
        # The ends to reach before the replica follows, or None if the replica follows or is far from the ends.
        self._ends: Mapping[Partition, int] | None = None
        now = time.monotonic()
        self._next_offset_commit = now
        self._next_comparison = now + _COMPARE_S
        self._clear_stop_at = now + _CLEAR_STOP_S
        self._next_attempt_to_follow = now
        replica.between_pieces = self._between_pieces
        self._note_lost_consistency()
        report.change(active=True, state=self._shown_state(), lsn=row.lsn)

    def run(self, reader: SourceReader) -> bool:
        """Apply. Return True if done or stopped, False if the claim to the replica is lost."""
        while not self._patience.is_stopped:
            if reader.unanswered_s < _UNANSWERED_S:
                self._patience.go_round()
            else:
                self._patience.beat()
            if not self._turn.is_active():
                _log.info("%s", self._turn.lost_text)
                return False
            match self._take(reader.queue):
                case Run() as run:
                    self._apply(run)
                case Signal.GAP:
                    self._begin_loading(reader.deletes_known_ms)
                case Signal.FOLLOWING:
                    self._ends = reader.ends
                    self._follow_rows()
                case Signal.LOADED:
                    self._consistency.request()
                case Signal.DONE:
                    return self._end_once()
                case None if self._once and reader.queue.is_too_young:
                    return self._end_once()
            self._do_what_is_due()
        self._commit_offsets()
        return True

    def _take(self, queue: TransactionQueue) -> Run | Signal | None:
        rest_s = self._rest_until - time.monotonic()
        if rest_s > 0:
            self._patience.pause(min(rest_s, _TAKE_TIMEOUT_S))
            return None
        return queue.take(self._batch_events, _TAKE_TIMEOUT_S, self._pace.until_ms())

    def _end_once(self) -> bool:
        self._clear_stop()
        self._commit_offsets()
        return True

    def _apply(self, run: Run) -> None:
        began = time.monotonic()
        applied = self._patience.retry(lambda: self._replica.apply(run))
        self._rest_until = began + self._pace.rest_s(applied)
        self._patience.go_round()
        self._note_lost_consistency()
        self._next_comparison = time.monotonic() + _COMPARE_S
        positions = run.positions()
        self._uncommitted |= positions
        if not self._has_applied and are_of_applied_events(positions.values()):
            self._has_applied = True
            self._report.change(state=self._shown_state())
        last, before = run.last, self._report.progress
        if not last.lsn:
            return
        self._report.change(
            events=before.events + applied,
            transactions=before.transactions + run.transaction_count,
            lsn=max(before.lsn, last.lsn),
            behind_ms=max(0, int(time.time() * 1000) - last.ts_ms),
        )

    def _note_lost_consistency(self) -> None:
        """Schedule an attempt if a constraint of a new shape has ended the consistency."""
        if self._was_consistent and self._replica.state == "loading":
            self._was_consistent = False
            self._consistency.finish(is_consistent=False)
            self._report.change(state=self._shown_state())

    def _begin_loading(self, deletes_known_ms: int) -> None:
        self._patience.retry(lambda: self._replica.begin_loading(deletes_known_ms))
        self._was_consistent = False
        self._report.change(state=self._shown_state())
        self._consistency.cancel()

    def _do_what_is_due(self) -> None:
        if self._consistency.is_due():
            is_consistent = self._patience.retry(self._replica.become_consistent)
            self._consistency.finish(is_consistent)
            self._was_consistent = is_consistent
            self._report.change(state=self._shown_state())
        now = time.monotonic()
        if now >= self._next_comparison:
            # Every transaction compares too. Without events, a replica that lost rows would go unnoticed.
            self._patience.retry(self._replica.compare)
            self._next_comparison = time.monotonic() + _COMPARE_S
        if now >= self._clear_stop_at:
            self._clear_stop()
        if self._ends is not None and now >= self._next_attempt_to_follow:
            self._follow_rows()
        if now >= self._next_offset_commit:
            self._commit_offsets()

    def _follow_rows(self) -> None:
        """Record that the replica follows, if all workers have reached the ends."""
        ends = self._ends or {}
        if self._patience.retry(lambda: self._replica.follow_rows(ends)):
            self._ends = None
            self._report.change(state=self._shown_state())
        self._next_attempt_to_follow = time.monotonic() + _FOLLOW_S

    def _shown_state(self) -> ReplicaState:
        return self._replica.state if self._has_applied else "waiting"

    def _clear_stop(self) -> None:
        """Remove the error of an earlier worker, because this worker has not met the error again."""
        if self._stop_recorded:
            self._patience.retry(self._replica.clear_stop)
            self._stop_recorded = False

    def _between_pieces(self) -> None:
        """Stay alive while a large transaction is applied. Raise RetriableError after a stop, to roll it back."""
        self._patience.go_round()
        if self._patience.is_stopped:
            raise RetriableError("stopped inside a large transaction, which is rolled back")
        # Kafka replaces a member of the group that does not poll.
        self._turn.is_active()

    def _commit_offsets(self) -> None:
        if self._uncommitted:
            self._turn.commit_offsets(self._uncommitted)
            self._uncommitted = {}
            self._next_offset_commit = time.monotonic() + _OFFSET_COMMIT_S
