"""``rowcast worker``: apply Kafka's topics to one replica.

stand by ──gets the claim to the replica──▶ take the replica over ──▶ read and apply
   ▲                                                                    │
   └──────────────────────── fenced, or the claim is lost ──────────────┘

The worker also takes the replica over again if the replica is not as the worker left it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rowcast.consumer.dead_letters.letter_topic import LetterTopic
from rowcast.consumer.events.position import Partition, Position, are_of_applied_events
from rowcast.consumer.events.rebuild_hint import with_command
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.skips import Skips
from rowcast.consumer.reading.topic_ids import KafkaTopicIds, TopicIds
from rowcast.consumer.reading.topic_metadata import new_asker, new_reader, partitions_in
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.dialects import LIVE
from rowcast.consumer.replica.group_replica import GroupReplica
from rowcast.consumer.replica.positions import ReplicaChangedError, ReplicaRow
from rowcast.consumer.status.lag import replica_status
from rowcast.consumer.worker.apply_loop import ApplyLoop
from rowcast.consumer.worker.assignment import Assignment
from rowcast.consumer.worker.group_membership import GroupMembership
from rowcast.consumer.worker.group_turn import GroupTurn
from rowcast.consumer.worker.movement import Movement, StandstillLimit
from rowcast.consumer.worker.patience import JITTER, Patience
from rowcast.consumer.worker.progress import OnWorkerProgress, ProgressReport, WorkerProgress
from rowcast.consumer.worker.rest import Rest
from rowcast.consumer.worker.source_format import has_topics, is_debezium, new_source_reader, read_first_shapes
from rowcast.consumer.worker.turn import Turn
from rowcast.consumer.worker.verify_schedule import VerifySchedule, require_primary
from rowcast.shared import row_values
from rowcast.shared.backoff import Backoff
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.silence import SilenceWatch, watched_connections
from rowcast.shared.errors import (
    ConfigurationError,
    DataError,
    FencedError,
    RetriableError,
    SuspectError,
    UnreachableError,
)
from rowcast.shared.kafka.clients import is_embedded, new_admin, reach
from rowcast.shared.kafka.topic_names import transaction_topic
from rowcast.shared.process_tuning import tune_interpreter
from rowcast.shared.vitals import Pulse, Vitals

_log = logging.getLogger("rowcast.worker")

_STAND_BY_POLL_S = 0.2
_STAND_BY_LOG_S = 5.0


def run_assigned(
    settings: Settings,
    replica: str,
    assignment: Assignment,
    *,
    once: bool = False,
    stop: threading.Event | None = None,
    on_progress: OnWorkerProgress | None = None,
    vitals: Vitals | None = None,
    skip: Sequence[str] = (),
) -> WorkerProgress:
    """Apply the topics to the tables of an assignment. Parameters and errors are those of ``run_worker``."""
    vitals = vitals or Vitals(f"the worker of replica {replica!r}")
    shown = row_values.shown_if(settings.log_values)
    with tune_interpreter(), shown, watched_connections() as silence, vitals.pulse("applying") as pulse:
        return _Worker(
            settings,
            replica,
            assignment,
            once,
            stop or threading.Event(),
            on_progress,
            vitals,
            pulse,
            silence,
            Skips(skip),
        ).run()


class _Worker:
    def __init__(
        self,
        settings: Settings,
        name: str,
        assignment: Assignment,
        once: bool,
        stop: threading.Event,
        on_progress: OnWorkerProgress | None,
        vitals: Vitals,
        pulse: Pulse,
        silence: SilenceWatch,
        skips: Skips,
    ) -> None:
        self._skips = skips
        self._settings = settings
        self._name = name
        self._assignment = assignment
        self._options = settings.replica(name)
        if assignment.naming != LIVE or assignment.part is not None:
            # The letters of the replaced tables are settled by the swap, so the fresh tables must lack nothing. The
            # letters of a share would belong to no replica.
            self._options = self._options.model_copy(update={"on_bad_row": "stop"})
        # With a schedule, the worker catches up again and again.
        self._once = once or assignment.schedule is not None
        self._vitals = vitals
        self._pulse = pulse
        self._silence = silence
        self._patience = Patience(stop, vitals, pulse)
        self._rest = None if assignment.schedule is None else Rest(assignment.schedule, assignment, self._patience)
        self._report = ProgressReport(on_progress)
        self._standstill = StandstillLimit(self._options.lease_ms / 1000, settings.watchdog.stuck_after_s)
        self._layouts = RowLayouts(self._options.tables)
        metadata = reach(settings.require_kafka(), "worker")
        self._topic_was_found = bool(partitions_in(metadata, [transaction_topic(settings.source)]))
        # The embedded Kafka has no ids.
        is_without_ids = is_embedded(metadata)
        self._ask_topic_ids = None if is_without_ids else KafkaTopicIds(new_admin(settings.require_kafka(), "worker"))
        require_primary(settings, name)
        self._dead_letters = LetterTopic(settings, name)
        self._group: GroupMembership | None = None
        self._replica = (GroupReplica if assignment.in_group else Replica)(
            assignment.source,
            name,
            self._options,
            self._layouts,
            assignment.naming,
            assignment.part,
            self._dead_letters,
        )

    def run(self) -> WorkerProgress:
        backoff, fenced = Backoff(jitter=JITTER), Backoff(0.5, 60.0, jitter=JITTER)
        try:
            if self._rest is not None and not self._rest.begins_at_once:
                self._rest.wait()
            while not self._patience.is_stopped:
                self._patience.beat()
                try:
                    if self._take_a_turn():
                        if self._rest is None:
                            break
                        self._rest.wait()
                    backoff.reset()
                except FencedError as error:
                    if self._assignment.part is not None:
                        raise
                    _log.warning("%s. Now standing by", error)
                    # Without a pause, workers without a common lock would fence each other without end.
                    self._patience.pause(fenced.next_pause())
                except RetriableError:
                    # Raised only if the worker was stopped while the replica was unreachable.
                    break
                except UnreachableError as error:
                    # The server was reachable at the start, and will come back.
                    if self._once and self._rest is None:
                        raise
                    pause = backoff.next_pause()
                    _log.warning("%s Trying again in %.1f s", error, pause)
                    self._patience.pause(pause)
        except Exception as error:
            if isinstance(error, DataError):
                error.args = (with_command(f"{error}", self._assignment.rebuild_command),)
            if isinstance(error, DataError) and error.skip is not None:
                text = f"{error}".removesuffix(".")
                error.args = (f"{text}. To leave it out: {self._assignment.command} --skip {error.skip}",)
            self._replica.record_stop(error)
            self._report.change(state="suspect" if isinstance(error, SuspectError) else "stopped")
            raise
        finally:
            self._replica.close()
            self._dead_letters.close()
            if self._group is not None:
                self._group.close()
            if self._rest is not None:
                self._rest.close()
        return self._report.progress

    def _take_a_turn(self) -> bool:
        """Stand by and work. Return True if done or stopped, False if another worker is to do the work now."""
        if not self._wait_for_topics():
            return True
        movement = Movement(
            self._vitals,
            self._pulse,
            self._silence,
            self._standstill.seconds,
            self._settings.watchdog.stuck_after_s,
        )
        events = self._report.progress.events
        turn = self._new_turn(movement)
        try:
            return not self._stand_by(turn) or self._work_from_positions(turn)
        finally:
            turn.close()
            self._report.change(active=False)
            self._standstill.note_turn(gave_up=movement.gave_up, applied=self._report.progress.events > events)

    def _new_turn(self, movement: Movement) -> Turn | GroupTurn:
        if isinstance(self._replica, GroupReplica):
            # One membership for all turns, because each join or leave moves partitions.
            self._group = self._group or GroupMembership(self._settings, self._name)
            return GroupTurn(self._settings, self._layouts, self._skips, self._group, self._replica, self._patience)
        claim = self._replica.new_claim(movement.is_moving)
        membership = self._assignment.new_membership() if self._rest is None else self._rest.membership
        return Turn(membership, self._replica, claim, self._assignment.share)

    def _wait_for_topics(self) -> bool:
        """Wait for the relay's first start. Return False if stopped, or with ``once`` if there is no topic."""
        if self._topic_was_found:
            # Only the first turn relies on the metadata of the start.
            self._topic_was_found = False
            return True
        admin = new_admin(self._settings.require_kafka(), "worker")
        already_logged = False
        while not self._patience.is_stopped:
            self._patience.beat()
            if has_topics(admin, self._settings, self._layouts):
                return True
            if self._once:
                _log.info("there is no topic of source %s yet: nothing to apply", self._settings.source)
                return False
            if not already_logged:
                _log.info("there is no topic of source %s: waiting for its first", self._settings.source)
                self._patience.retry(self._replica.register)
                already_logged = True
            self._patience.pause(_STAND_BY_POLL_S)
        return False

    def _stand_by(self, turn: Turn | GroupTurn) -> bool:
        """Wait until this worker may work.

        Return False if stopped, or with ``once`` if the active worker has applied everything.
        """
        already_logged = was_reported = False
        since = time.monotonic()
        while not self._patience.is_stopped:
            if self._patience.retry(turn.take):
                return True
            # The progress and the metrics of a standby show the readiness.
            if not was_reported:
                self._report.change(active=False)
                was_reported = True
            self._patience.go_round()
            if not already_logged and time.monotonic() - since > _STAND_BY_LOG_S:
                _log.info("%s", turn.idle_text)
                already_logged = True
            if already_logged and not self._assignment.is_shared:
                raise ConfigurationError(
                    f"another process runs {self._assignment.command}. Wait for its end, or stop it and try again."
                )
            if self._once and already_logged:
                status = replica_status(self._settings, self._name)
                if status.state in ("waiting", "consistent", "following") and status.records == 0:
                    _log.info("the active worker has applied everything")
                    return False
            self._patience.pause(_STAND_BY_POLL_S)
        return False

    def _work_from_positions(self, turn: Turn | GroupTurn) -> bool:
        """Work, and start again from the replica's positions whenever the replica has changed. Return as ``_work``."""
        while True:
            try:
                return self._work(turn)
            except ReplicaChangedError as error:
                _log.warning("%s. Starting again from the positions in the replica", error)

    def _work(self, turn: Turn | GroupTurn) -> bool:
        """Take the replica over, read and apply. Return as ``_take_a_turn``."""
        row, positions = self._patience.retry(turn.take_over)
        # The client for events is created first, because it connects while the client for shapes reads.
        is_limited = self._assignment.until_lsn is not None
        # A connector may write in Kafka's transactions, and repeats aborted messages. Where partitions are read by
        # themselves, a repetition would take rows back for a moment.
        committed = is_limited or is_debezium(self._settings) or self._assignment.in_group
        with new_reader(self._settings, committed=committed) as consumer, new_asker(self._settings) as asker:
            return self._read_and_apply(row, positions, turn, consumer, asker)

    def _read_and_apply(
        self,
        row: ReplicaRow,
        positions: Mapping[Partition, Position],
        turn: Turn | GroupTurn,
        consumer: Any,
        asker: Any,
    ) -> bool:
        read_first_shapes(asker, self._settings, self._layouts, self._skips, self._replica)
        self._dead_letters.require_own(
            [self._settings.topic_of(s.schema, s.name) for s in self._layouts.latest_shapes()]
        )
        timeline = self._layouts.notes.timeline
        self._patience.retry(lambda: self._replica.follow_timeline(timeline))
        self._patience.retry(self._replica.prepare)
        first_lsns = self._patience.retry(self._replica.first_lsns)
        _log.info("active: %s, epoch %d, lsn %d", row.state, row.epoch, row.lsn)
        loop = ApplyLoop(
            self._replica,
            turn,
            self._patience,
            self._report,
            row,
            has_applied=row.lsn > 0 or are_of_applied_events(positions.values()),
            batch_events=self._options.batch_events,
            pace=self._assignment.pace,
            once=self._once,
        )
        context = ReaderContext(
            self._settings,
            self._layouts,
            {**self._assignment.first_positions, **positions},
            loading=row.state in ("loading", "following"),
            last_transaction=row.tx,
            # A consistent replica knows all deletes of the transactions that were applied.
            deletes_known_ms=row.deletes_known_ms if row.state == "loading" else row.ts_ms,
            batch_events=self._options.batch_events,
            buffer_events=self._options.buffer_events,
            once=self._once,
            replica=self._name,
            skips=self._skips,
            topic_ids=TopicIds(self._replica.topic_ids, self._ask_topic_ids),
            timeline=timeline,
            until_lsn=self._assignment.until_lsn,
            share=turn.share,
            ignores_truncates=self._options.on_truncate == "ignore",
            first_lsns={
                self._settings.topic_of(shape.schema, shape.name): first_lsns.get(
                    self._layouts.renamed.get(shape.full_name, shape.full_name), 0
                )
                for shape in self._layouts.latest_shapes()
            },
            sets_unread_aside=self._options.on_bad_row == "dlq",
        )
        reader = new_source_reader(context, row.lsn, consumer, asker, self._vitals)
        try:
            reader.start()
            if self._once:
                return loop.run(reader)
            with VerifySchedule(self._settings, self._name, row.verified):
                return loop.run(reader)
        finally:
            reader.close()
            self._replica.close()
