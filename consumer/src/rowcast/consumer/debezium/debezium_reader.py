"""The thread to read Debezium's topics: messages in, whole transactions or rows by key out.

A replica with ``consistency = "transaction"`` loads by key up to the ends of the topics. Then the transactions applied
in part are completed by key, and all later transactions are applied whole, in the order of their ENDs. With
``consistency = "row"`` everything goes by key.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from itertools import count
from typing import Any

from rowcast.consumer.debezium.assembly import Assembly
from rowcast.consumer.debezium.event_forms import EventForms
from rowcast.consumer.debezium.event_reader import EventReader, TableEvent
from rowcast.consumer.debezium.existing_tables import ExistingTables
from rowcast.consumer.debezium.partitions import NEW_SNAPSHOT, FollowedPartition, Partitions
from rowcast.consumer.debezium.transaction_record import Begin, read_record
from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Partition, Position, message_target
from rowcast.consumer.events.transactions import Transaction
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.transaction_queue import Signal, TransactionQueue
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.topic_names import table_topic
from rowcast.shared.vitals import Vitals

_log = logging.getLogger("rowcast.worker")

_POLL_S = 0.1
_MAX_MESSAGES = 5_000
# The brokers may show an END before an event of its transaction.
_GRACE_S = 10.0
_LOADING_GRACE_S = 1.0


class DebeziumReader:
    """Read until stopped, failed, or with ``once`` until the ends of the topics at the start.

    ``first_number``: the number of applied changes, the replica's lsn. ``consumer`` is from ``new_reader``, ``asker``
    from ``new_asker``.
    """

    deletes_known_ms = 0
    """The time before which the replica knows all deletes. Debezium's topics do not say it."""

    ends: Mapping[Partition, int] = {}
    """The ends that other workers must reach. No other worker reads Debezium's topics."""

    def __init__(
        self, context: ReaderContext, first_number: int, consumer: Any, asker: Any, vitals: Vitals | None = None
    ) -> None:
        options = context.settings.replica(context.replica)
        self._vitals = vitals or Vitals("a reader")
        self.queue = TransactionQueue()
        self._context = context
        self._by_row = options.consistency == "row"
        self._loading = context.loading or self._by_row
        self._is_cutting_over = False
        self._topic_ids = context.topic_ids
        forms = EventForms(context.settings.debezium, context.layouts, ExistingTables(context.settings, options))
        self._events = EventReader(context.settings, context.layouts, forms)
        self._partitions = Partitions(
            context.settings, context.layouts, context.positions, context.topic_ids, consumer, asker,
            with_transactions=not self._by_row,
        )  # fmt: skip
        numbers = count(first_number + 1)
        self._number: Callable[[], int] = lambda: next(numbers)
        self._assembly = Assembly(context.layouts.is_wanted, self._number)
        self._by_key: list[Change] = []
        self._put_positions: dict[Partition, Position] = dict(context.positions)
        self._lacks_rows = False
        self._waiting_since: tuple[object, float] = (None, 0.0)
        self._has_last_targets = False
        self._overdue_ends = 0
        self._awaits_end = False
        self._is_following = False
        self._stop = threading.Event()
        if self._by_row and not context.loading:
            # The constraints between rows hold only while transactions are applied whole.
            self.queue.put([Signal.GAP])
        self._thread = threading.Thread(
            # With the context of the worker, because the context says whether messages may show values.
            target=copy_context().run, args=(self._run,), name="rowcast-reader", daemon=True,
        )  # fmt: skip

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading and wait for the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def unanswered_s(self) -> float:
        """Return for how long Kafka has not answered."""
        return self._topic_ids.unanswered_s

    def _run(self) -> None:
        with self._vitals.pulse("reading") as pulse:
            try:
                while not self._stop.is_set():
                    pulse.beat()
                    if self.queue.event_count >= self._context.buffer_events:
                        self.queue.wait_for_room(_POLL_S)
                    elif self._read():
                        return
            except BaseException as error:  # noqa: BLE001  # the applier raises it
                self.queue.fail(error)

    def _read(self) -> bool:
        """Read once, and hand on what is ready. Return True if the reading is done."""
        try:
            for message in self._partitions.poll(_POLL_S, _MAX_MESSAGES):
                self._take(message)
        finally:
            # Everything before a bad message is applied first.
            self._put_ready()
        self._partitions.discover()
        self._partitions.compare_ids()
        self._limit_memory()
        self._follow_up()
        if self._context.once and self._is_done():
            self.queue.put([Signal.DONE])
            return True
        return False

    def _take(self, message: Any) -> None:
        partition = message.topic(), message.partition()
        followed = self._partitions.followed[partition]
        if message.error() is not None:
            self._handle_error(followed, message)
            return
        offset = message.offset()
        if offset not in self._context.skips.offsets(partition):
            try:
                if partition == self._partitions.transactions:
                    self._take_record(followed, message)
                else:
                    self._take_event(followed, message)
            except DataError as bad:
                located = DataError(f"topic {partition[0]}, partition {partition[1]}, offset {offset}: {bad}")
                located.skip = message_target(partition, offset)
                raise located from bad
        followed.next_offset, followed.at_end = offset + 1, False

    @staticmethod
    def _handle_error(followed: FollowedPartition, message: Any) -> None:
        topic, number = followed.partition
        match message.error().name():
            case "_PARTITION_EOF":
                followed.at_end = True
                # Control records have offsets too.
                followed.next_offset = max(followed.next_offset, message.offset())
            case "_AUTO_OFFSET_RESET" | "OFFSET_OUT_OF_RANGE":
                raise DataError(
                    f"topic {topic}, partition {number}: offset {followed.next_offset} is no longer there, and the "
                    f"replica lacks its event. {NEW_SNAPSHOT}"
                )
            case _:
                _log.warning("topic %s, partition %d: %s", topic, number, message.error().str())

    def _take_record(self, followed: FollowedPartition, message: Any) -> None:
        if message.value() is None:
            return
        record = read_record(message.value())
        if isinstance(record, Begin):
            self._assembly.add_begin(record)
        elif message.offset() < followed.applied_up_to:
            self._assembly.note_applied(record)
        else:
            self._lacks_rows = False
            self._assembly.add_end(record, message.offset())

    def _take_event(self, followed: FollowedPartition, message: Any) -> None:
        event = self._events.read(message)
        before, followed.last_delete = followed.last_delete, None
        if event is None:
            return
        change = event.change
        if event.is_tombstone and before == change.key:
            return
        if change.after is None and not event.is_tombstone:
            followed.last_delete = change.key
        if change.is_truncate and self._context.ignores_truncates:
            if change.transaction is not None:
                self._assembly.leave_out(event)
            return
        if self._by_row:
            is_new = event.place is None or not followed.places.is_repetition(event.place, snapshot=event.is_snapshot)
        else:
            is_new = self._take_in_transaction(event)
        if is_new:
            self._by_key.append(change._replace(lsn=self._number()))

    def _take_in_transaction(self, event: TableEvent) -> bool:
        """Return whether the event is to be applied by key now."""
        change = event.change
        self._lacks_rows = event.is_snapshot and not event.is_last
        if change.transaction is None and not (event.is_read or event.is_tombstone):
            if change.is_truncate:
                raise DataError(
                    "MySQL and MariaDB write a TRUNCATE outside of any transaction, so nothing says between which "
                    'transactions it belongs. Leave it out with on_truncate = "ignore", and delete the rows on the '
                    'primary by DELETE. The connector leaves such events out with skipped.operations = "t"'
                )
            raise DataError(
                "the event names no transaction. Set the connector's provide.transaction.metadata to true, or apply "
                'rows without transactions: consistency = "row" in the replica\'s section'
            )
        if self._loading and not self._is_cutting_over:
            return change.transaction is None or self._assembly.count(event)
        return self._assembly.add(event)

    def _put_ready(self) -> None:
        ready = self._pop_by_key()
        if ready:
            ready[0].positions = self._new_positions()
        for transaction in self._assembly.pop(self._partitions.transactions):
            transaction.by_key = self._loading
            if transaction.id is not None and self._is_skipped(transaction.id):
                transaction.changes = []
            ready.append(transaction)
        positions = self._new_positions()
        if positions and not ready:
            ready = [Transaction(None, 0, 0, by_key=self._loading)]
        if ready:
            # The last transaction takes the positions, because the positions are after all ready transactions.
            ready[-1].positions |= positions
            self.queue.put(ready)

    def _new_positions(self) -> dict[Partition, Position]:
        positions = {
            one.partition: position
            for one in self._partitions.followed.values()
            if (position := self._position(one)).next_offset > self._last_offset(one.partition)
        }
        self._put_positions |= positions
        return positions

    def _last_offset(self, partition: Partition) -> int:
        return self._put_positions.get(partition, Position(0, 0)).next_offset

    def _pop_by_key(self) -> list[Transaction]:
        changes, self._by_key = self._by_key, []
        if not changes:
            return []
        last = changes[-1]
        return [Transaction(None, last.lsn, last.ts_ms, changes, by_key=self._loading)]

    def _is_skipped(self, name: str) -> bool:
        is_skipped = bool({name, name.partition(":")[0]} & self._context.skips.transactions)
        if is_skipped:
            _log.warning("transaction %s is left out, because --skip names it", name)
        return is_skipped

    def _position(self, followed: FollowedPartition) -> Position:
        """Return where a worker begins again: before the first event or END of an open transaction."""
        if followed.partition == self._partitions.transactions:
            held = self._assembly.first_end_offset
        else:
            held = self._assembly.first_held(followed.partition)
        return Position(followed.next_offset if held is None else held, max(1, followed.places.committed))

    def _limit_memory(self) -> None:
        if self._assembly.held_events < self._context.buffer_events:
            self._partitions.pause_all_but(None)
            return
        self._partitions.pause_all_but(self._missing_topics())

    def _missing_topics(self) -> set[str]:
        """Return the topics of the missing events of the first transaction."""
        source, tables = self._context.settings.source, (table.partition(".") for table in self._assembly.missing())
        return {table_topic(source, schema, name) for schema, _, name in tables}

    def _follow_up(self) -> None:
        """Go on to the next phase when the ends are reached, or when events are missing for too long."""
        has_caught_up = all(one.target_reached for one in self._partitions.followed.values())
        if self._by_row:
            if has_caught_up and self._partitions.followed and not self._is_following:
                self._is_following = True
                self.queue.put([Signal.FOLLOWING])
            return
        if self._loading and not self._is_cutting_over:
            self._is_cutting_over = has_caught_up and self._has_rows
            if self._is_cutting_over:
                self._assembly.straddle_begun()
            return
        waits_for = self._waits_for()
        if waits_for is None:
            self._finish_loading()
        elif waits_for != self._waiting_since[0]:
            self._waiting_since, self._has_last_targets = (waits_for, time.monotonic()), False
        elif self._is_over_due():
            self._give_up()

    @property
    def _has_rows(self) -> bool:
        """Return whether no snapshot is under way, as far as its rows say."""
        return bool(self._partitions.followed) and not self._lacks_rows

    def _waits_for(self) -> object:
        """Return the missing part of the first transaction, or None."""
        if self._is_cutting_over and self._assembly.has_straddling:
            return self._assembly.first_end or "END"
        missing = self._assembly.missing()
        return (self._assembly.first_end, tuple(missing.items())) if missing else None

    def _is_over_due(self) -> bool:
        """Return whether everything was read up to the ends of the topics after the grace period."""
        grace_s = _LOADING_GRACE_S if self._loading else _GRACE_S
        if time.monotonic() - self._waiting_since[1] < grace_s:
            return False
        if not self._has_last_targets:
            self._partitions.set_targets()
            self._has_last_targets, self._overdue_ends = True, self._assembly.pending_ends
        # The other partitions may be paused, because the first transaction needs none of their events.
        topics = self._missing_topics() or {self._partitions.transactions[0]}
        followed = self._partitions.followed.values()
        return all(one.target_reached for one in followed if one.partition[0] in topics)

    def _give_up(self) -> None:
        """Go on without events that Kafka does not have."""
        if self._loading:
            self._give_up_while_loading()
            return
        end, missing = self._assembly.first_end, self._assembly.missing()
        assert end is not None
        _log.warning(
            "transaction %s lacks events of %s, which compaction, a transformation or the topic's retention has "
            "removed. The replica is loading until the topics' ends are applied",
            end.name, ", ".join(f"{table} ({n})" for table, n in missing.items()),
        )  # fmt: skip
        self.queue.put([Signal.GAP])
        self._loading = self._is_cutting_over = True
        self._assembly.give_up_missing(1)

    def _give_up_while_loading(self) -> None:
        if not self._assembly.missing():
            dropped = self._assembly.drop_straddling()
            for name in dropped:
                _log.info("transaction %s has no END in Kafka, and was applied row by row", name)
            self._awaits_end = not dropped
            return
        # Many old transactions lack events after compaction. All ENDs from before the targets lack events too.
        has_all = all(one.target_reached for one in self._partitions.followed.values())
        self._assembly.give_up_missing(self._overdue_ends if has_all else 1)

    def _finish_loading(self) -> None:
        if self._loading:
            self._put_ready()
            self._loading = self._is_cutting_over = False
            self.queue.put([Signal.LOADED])

    def _is_done(self) -> bool:
        if not all(one.target_reached for one in self._partitions.followed.values()):
            return False
        if self._by_row:
            return self._is_following or not self._partitions.followed
        if self._loading:
            # Without a running connector, an interrupted snapshot or transaction never ends.
            return self._awaits_end or not self._has_rows
        return self._waits_for() is None
