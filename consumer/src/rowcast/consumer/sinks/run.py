"""Read the topics of a source and give whole transactions to a sink: ``run_sink``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.source_notes import other_timeline
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.reader_thread import ReaderThread
from rowcast.consumer.reading.topic_ids import KafkaTopicIds, TopicIds
from rowcast.consumer.reading.topic_metadata import new_asker, new_reader, partitions_in, read_shapes
from rowcast.consumer.reading.transaction_queue import Signal
from rowcast.consumer.sinks.checkpoint import Checkpoint
from rowcast.consumer.sinks.python_values import RowConverter
from rowcast.consumer.sinks.sink import Changes, Sink, SinkBatch, SinkState, SinkTransaction
from rowcast.shared import row_values
from rowcast.shared.backoff import Backoff
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import RetriableError
from rowcast.shared.kafka.clients import is_embedded, new_admin, reach
from rowcast.shared.kafka.topic_names import transaction_topic
from rowcast.shared.tables.shape import TableShape

_log = logging.getLogger("rowcast.sink")

_TAKE_TIMEOUT_S = 0.1
_TOPIC_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class SinkProgress:
    """How far a sink is. ``events`` and ``transactions`` count since the start."""

    state: SinkState = "loading"
    events: int = 0
    transactions: int = 0
    lsn: int = 0


OnSinkProgress = Callable[[SinkProgress], None]


def run_sink(
    settings: Settings,
    sink: Sink,
    *,
    tables: Sequence[str] = ("*",),
    once: bool = False,
    stop: threading.Event | None = None,
    on_progress: OnSinkProgress | None = None,
    batch_events: int = 20_000,
    buffer_events: int = 200_000,
) -> SinkProgress:
    """Give the transactions of a source to a sink until ``stop`` is set. Finish the present batch then.

    ``tables``: shell patterns over ``schema.table``. ``once``: stop at the topics' ends at the time of the start.
    ``batch_events``, ``buffer_events``: as in ``[replicas.NAME]``. Run a sink in one process only, because nothing
    keeps two processes apart.

    A batch that raises RetriableError is given to the sink again after a pause. Raise DataError for an invalid event,
    SuspectError if the source has begun a new timeline, UnreachableError if Kafka does not answer at the start, and the
    errors of the sink. The sink keeps its last checkpoint, and the next start goes on from the checkpoint.
    """
    run = _SinkRun(
        settings, sink, RowLayouts(tuple(tables)), stop or threading.Event(), on_progress or (lambda _: None)
    )
    with row_values.shown_if(settings.log_values):
        return run.run(once=once, batch_events=batch_events, buffer_events=buffer_events)


class _SinkRun:
    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        layouts: RowLayouts,
        stop: threading.Event,
        on_progress: OnSinkProgress,
    ) -> None:
        self._settings = settings
        self._sink = sink
        self._layouts = layouts
        self._stop = stop
        self._on_progress = on_progress
        self._progress = SinkProgress()
        self._checkpoint = Checkpoint.parse(sink.checkpoint(), settings.source)
        self._topic_ids = dict(self._checkpoint.topic_ids)
        self._convert = RowConverter()
        self._prepared: list[TableShape] = []

    def run(self, *, once: bool, batch_events: int, buffer_events: int) -> SinkProgress:
        self._settings.require_relay()
        metadata = reach(self._settings.require_kafka(), "worker")
        if not self._wait_for_topic(metadata, once=once):
            return self._progress
        ask = None if is_embedded(metadata) else KafkaTopicIds(new_admin(self._settings.require_kafka(), "worker"))
        with new_reader(self._settings) as consumer, new_asker(self._settings) as asker:
            read_shapes(asker, self._settings, self._layouts)
            self._follow_timeline(self._layouts.notes.timeline)
            self._prepare()
            checkpoint = self._checkpoint
            is_loading = checkpoint.state == "loading"
            context = ReaderContext(
                self._settings,
                self._layouts,
                checkpoint.positions,
                loading=is_loading,
                last_transaction=checkpoint.tx,
                deletes_known_ms=checkpoint.deletes_known_ms if is_loading else checkpoint.ts_ms,
                batch_events=batch_events,
                buffer_events=buffer_events,
                once=once,
                topic_ids=TopicIds(self._topic_ids, ask),
                timeline=checkpoint.timeline,
            )
            reader = ReaderThread(context, consumer, asker)
            try:
                reader.start()
                self._apply_all(reader, batch_events)
            except RetriableError:
                # The sink has not taken the batch before the stop, and gets it at the next start.
                if not self._stop.is_set():
                    raise
            finally:
                reader.close()
        return self._progress

    def _wait_for_topic(self, metadata: Any, *, once: bool) -> bool:
        """Wait for the relay's first start. Return False if stopped, or with ``once`` if no topic exists."""
        topic = transaction_topic(self._settings.source)
        while not partitions_in(metadata, [topic]):
            if once or self._stop.wait(_TOPIC_POLL_S):
                return False
            metadata = reach(self._settings.require_kafka(), "worker")
        return True

    def _follow_timeline(self, source: int) -> None:
        known = self._checkpoint.timeline or source
        if source > known:
            raise other_timeline(known, source)
        self._checkpoint = replace(self._checkpoint, timeline=known)

    def _prepare(self) -> None:
        """Let the sink hear of new and changed tables."""
        shapes = self._layouts.latest_shapes()
        if shapes != self._prepared:
            self._retry(lambda: self._sink.prepare(shapes))
            self._prepared = shapes

    def _apply_all(self, reader: ReaderThread, batch_events: int) -> None:
        while not self._stop.is_set():
            match reader.queue.take(batch_events, _TAKE_TIMEOUT_S):
                case Run() as run:
                    self._prepare()
                    self._apply(run)
                case Signal.GAP:
                    self._checkpoint = replace(
                        self._checkpoint, state="loading", deletes_known_ms=reader.deletes_known_ms
                    )
                case Signal.LOADED:
                    self._checkpoint = replace(self._checkpoint, state="consistent", deletes_known_ms=0)
                    self._give([])
                    _log.info("the sink is consistent: from now on, it gets whole transactions")
                case Signal.DONE:
                    return

    def _apply(self, run: Run) -> None:
        self._checkpoint = self._checkpoint.after(run, self._topic_ids)
        self._give([self._for_sink(transaction) for transaction in run.transactions if transaction.changes])
        self._report(
            events=self._progress.events + run.event_count,
            transactions=self._progress.transactions + run.transaction_count,
        )

    def _for_sink(self, transaction: Transaction) -> SinkTransaction:
        changes = Changes(len(transaction.changes), partial(map, self._convert, transaction.changes))
        identity = None if transaction.by_key else transaction.id
        return SinkTransaction(identity, transaction.lsn, transaction.ts_ms, changes)

    def _give(self, transactions: Sequence[SinkTransaction]) -> None:
        batch = SinkBatch(transactions, self._checkpoint.state, self._checkpoint.to_bytes())
        self._retry(lambda: self._sink.apply(batch))
        self._report()

    def _report(self, **changes: int) -> None:
        state, lsn = self._checkpoint.state, self._checkpoint.lsn
        self._progress = replace(self._progress, state=state, lsn=lsn, **changes)
        self._on_progress(self._progress)

    def _retry(self, work: Callable[[], None]) -> None:
        """Call the sink until it succeeds. Raise RetriableError if stopped meanwhile."""
        backoff = Backoff()
        while True:
            try:
                return work()
            except RetriableError as error:
                pause = backoff.next_pause()
                _log.warning("%s. Trying again in %.1f s", str(error).removesuffix("."), pause)
                if self._stop.wait(pause):
                    raise
