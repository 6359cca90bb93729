"""The reader thread loads by key, cuts over, and then puts whole transactions into its queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.reading import (
    committed_transactions,
    gap_detector,
    load,
    lost_deletes,
    message_router,
    reader_thread,
    topic_metadata,
)
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.reader_thread import ReaderThread
from rowcast.consumer.reading.share import Share
from rowcast.consumer.reading.subscription import Subscription
from rowcast.consumer.reading.topic_metadata import new_asker, new_reader
from rowcast.consumer.reading.transaction_queue import Signal
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError, SuspectError
from rowcast.shared.vitals import Pulse, Vitals
from support.kafka_source import column, shape
from support.memory_consumer import ErrorMessage, MemoryBroker
from support.memory_topics import MemorySource, compact

A, B = shape("a", column("n")), shape("b", column("n"))
SETTINGS = Settings(source="shop", kafka={"bootstrap.servers": "memory"})
TRANSACTIONS = ("shop.transaction", 0)


@pytest.fixture
def source() -> MemorySource:
    source = MemorySource()
    source.add(A, B)
    return source


@pytest.fixture
def broker(source: MemorySource, monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    broker = MemoryBroker(source)
    for module in (committed_transactions, topic_metadata):
        monkeypatch.setattr(module, "new_consumer", broker.new_consumer)
    monkeypatch.setattr(load, "_END_GRACE_S", 0.2)
    monkeypatch.setattr(reader_thread, "_BAD_MESSAGE_GRACE_S", 0.1)
    return broker


@contextmanager
def reading(vitals: Vitals | None = None, **options: Any) -> Iterator[ReaderThread]:
    layouts = RowLayouts()
    for one in (A, B):
        layouts.add(one.version, one)
    with new_reader(SETTINGS) as consumer, new_asker(SETTINGS) as asker:
        reader = ReaderThread(ReaderContext(SETTINGS, layouts, **options), consumer, asker, vitals)
        try:
            reader.start()
            yield reader
        finally:
            reader.close()


def take_until(
    reader: ReaderThread, done: Callable[[Transaction | Signal], bool], timeout: float = 60
) -> list[Transaction | Signal]:
    """Return all items of the queue up to the first for which ``done`` is true, and the run of this item."""
    taken: list[Transaction | Signal] = []
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        item = reader.queue.take(1_000, 0.1)
        items = item.transactions if isinstance(item, Run) else [item] if item is not None else []
        taken += items
        if any(done(one) for one in items):
            return taken
    raise AssertionError(f"nothing more after {taken}")


def has_changes(item: Transaction | Signal) -> bool:
    return isinstance(item, Transaction) and bool(item.changes)


def keys(items: list[Transaction | Signal]) -> list[tuple[bytes, bool]]:
    """Return key and ``by_key`` of the changes, in the order of their transactions."""
    return [(c.key, t.by_key) for t in items if isinstance(t, Transaction) for c in t.changes]


def test_a_new_replica_loads_by_key_and_is_loaded_at_the_topics_ends(
    broker: MemoryBroker, source: MemorySource
) -> None:
    source.put(("c", "a", {"id": 1, "n": 1}), ("c", "b", {"id": 1, "n": 1}))
    source.put(("u", "a", {"id": 1, "n": 2}))
    with reading(loading=True, once=True) as reader:
        taken = take_until(reader, lambda item: item is Signal.DONE)
    assert taken.index(Signal.LOADED) < taken.index(Signal.DONE)
    assert sorted(keys(taken)) == [(b'{"id":1}', True)] * 3


def test_a_share_that_is_followed_is_read_by_key_and_says_until_when_deletes_are_known(
    broker: MemoryBroker, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_IDLE_POSITIONS_S", "_KNOWN_DELETES_S"):
        monkeypatch.setattr(reader_thread, name, 0.0)
    source.put(("c", "a", {"id": 1, "n": 1}), ("c", "b", {"id": 1, "n": 1}))
    place = "shop.public.a", 0
    share = Share(frozenset([place]), {}, follows=True, counts={"shop.public.a": 1})
    began_ms = int(time.time() * 1000)
    with reading(loading=True, share=share) as reader:
        taken = take_until(reader, lambda item: item is Signal.FOLLOWING)
        assert keys(taken) == [(b'{"id":1}', True)]
        assert reader.ends == {place: taken[0].positions[place].next_offset}  # type: ignore[union-attr]
        # A quiet partition keeps its position, and the time goes on.
        quiet = [reader.queue.take(1_000, 10) for _ in range(2)]
        for run in quiet:
            assert isinstance(run, Run)
            assert run.positions()[place].next_offset == reader.ends[place]
            assert run.known_ms()[place] >= began_ms


def test_a_reader_that_has_read_everything_has_no_pulse_while_its_transactions_are_applied(
    broker: MemoryBroker, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.put(("c", "a", {"id": 1, "n": 1}))
    vitals, names = Vitals("a worker"), list[str]()
    original = vitals.pulse

    def pulse(name: str) -> AbstractContextManager[Pulse]:
        names.append(name)
        return original(name)

    monkeypatch.setattr(vitals, "pulse", pulse)
    with reading(vitals, loading=True, once=True) as reader:
        reader._thread.join(60)
        assert names == ["reading"]
        assert reader.queue.event_count == 1
        assert vitals.pulses() == []


def test_transactions_after_the_cutover_are_whole(broker: MemoryBroker, source: MemorySource) -> None:
    source.put(("c", "a", {"id": 1, "n": 1}))
    with reading(loading=True) as reader:
        take_until(reader, lambda item: item is Signal.LOADED)
        source.put(("c", "a", {"id": 2, "n": 1}), ("c", "b", {"id": 2, "n": 1}))
        taken = take_until(reader, has_changes)
    assert [(t.id, len(t.changes)) for t in taken if isinstance(t, Transaction) and t.changes] == [("702", 2)]


def test_loading_ends_only_when_kafka_has_committed_the_cutover(broker: MemoryBroker, source: MemorySource) -> None:
    source.put(("c", "a", {"id": 1, "n": 1}))
    broker.committed[TRANSACTIONS] = 0
    with reading(loading=True) as reader:
        take_until(reader, has_changes)
        with pytest.raises(AssertionError, match="nothing more"):
            take_until(reader, lambda item: item is Signal.LOADED, timeout=1)
        broker.committed.clear()
        take_until(reader, lambda item: item is Signal.LOADED)
    assert all(consumer.closed for consumer in broker.consumers)


def test_loading_does_not_wait_for_a_deleted_end(broker: MemoryBroker, source: MemorySource) -> None:
    source.put(("c", "a", {"id": 1, "n": 1}), end=False, begin=False)
    with reading(loading=True, last_transaction="701") as reader:
        assert take_until(reader, lambda item: item is Signal.LOADED)


def test_a_lost_event_sends_the_replica_back_to_loading(broker: MemoryBroker, source: MemorySource) -> None:
    source.put(("c", "a", {"id": 1, "n": 1}), ("c", "b", {"id": 1, "n": 1}))
    del source.log["shop.public.b", 0][:]
    source.put(("c", "b", {"id": 2, "n": 1}))
    with reading() as reader:
        taken = take_until(reader, lambda item: item is Signal.LOADED)
    assert taken[0] is Signal.GAP
    assert sorted(keys(taken)) == [(b'{"id":1}', True), (b'{"id":2}', True)]


def test_loading_waits_for_an_end_that_the_relay_has_not_sent_yet(broker: MemoryBroker, source: MemorySource) -> None:
    """Servers show the events of a transaction, and not yet its BEGIN and END."""
    source.put(("c", "a", {"id": 1, "n": 1}))
    source.put(("c", "a", {"id": 2, "n": 1}), begin=False, end=False)
    with reading(loading=True) as reader:
        with pytest.raises(AssertionError, match="nothing more"):
            take_until(reader, lambda item: item is Signal.LOADED, timeout=1)
        source.put()
        take_until(reader, lambda item: item is Signal.LOADED)


def test_events_that_come_after_their_abandoned_end_go_by_key(
    broker: MemoryBroker, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay was killed after it had sent an END, and its successor sends the events again."""
    monkeypatch.setattr(gap_detector, "GRACE_S", 0.1)
    source.put(("c", "a", {"id": 1, "n": 1}))
    position = {TABLE: Position(1, 4), TRANSACTIONS: Position(2, 5)}
    source.put(("c", "a", {"id": 2, "n": 1}), ("c", "b", {"id": 2, "n": 1}))
    sent = {partition: list(log) for partition, log in source.log.items()}
    lsn = source.lsn
    del source.log[TABLE][1:], source.log["shop.public.b", 0][:]
    broker.committed[TRANSACTIONS] = 2
    with reading(positions=position) as reader:
        assert take_until(reader, lambda item: item is Signal.GAP)
        with pytest.raises(AssertionError, match="nothing more"):
            take_until(reader, lambda item: item is Signal.LOADED, timeout=1)
        source.log.update({TABLE: sent[TABLE], ("shop.public.b", 0): sent["shop.public.b", 0]})
        source.lsn = lsn
        broker.committed.clear()
        taken = take_until(reader, lambda item: item is Signal.LOADED)
        assert sorted(keys(taken)) == [(b'{"id":2}', True)] * 2
        source.put(("c", "a", {"id": 3, "n": 1}))
        assert keys(take_until(reader, has_changes)) == [(b'{"id":3}', False)]


TABLE = ("shop.public.a", 0)
DAY_MS = 86_400_000


def delete_and_compact(source: MemorySource, *removed_offsets: int) -> dict[Partition, Position]:
    """Write rows, and then the deletes of two. Compact the deletes away. Return the positions before the deletes."""
    source.put(*(("c", "a", {"id": key, "n": 1}) for key in range(4)))
    positions = {TABLE: Position(4, 7), TRANSACTIONS: Position(2, 8)}
    source.put(("d", "a", {"id": 1}), ("d", "a", {"id": 2}))
    source.put(("u", "a", {"id": 3, "n": 2}))
    source.log[TABLE] = [m for m in compact(source.log[TABLE], 8) if m.offset() not in removed_offsets]
    return positions


def set_clock(monkeypatch: pytest.MonkeyPatch, away_ms: int) -> None:
    monkeypatch.setattr(lost_deletes, "time", SimpleNamespace(time=lambda: time.time() + away_ms / 1000))


def test_deletes_that_only_tombstones_show_are_applied(broker: MemoryBroker, source: MemorySource) -> None:
    positions = delete_and_compact(source)
    with reading(positions=positions, deletes_known_ms=1) as reader:
        taken = take_until(reader, lambda item: item is Signal.LOADED)
    assert taken[0] is Signal.GAP
    changes = [(c.key, c.after is None) for t in taken if isinstance(t, Transaction) for c in t.changes]
    assert changes == [(b'{"id":1}', True), (b'{"id":2}', True), (b'{"id":3}', False)]


@pytest.mark.parametrize(("away_ms", "retention_ms"), [(60_000, DAY_MS), (2 * DAY_MS, None)])
def test_deletes_cannot_be_lost_while_the_topic_keeps_them(
    broker: MemoryBroker,
    source: MemorySource,
    monkeypatch: pytest.MonkeyPatch,
    away_ms: int,
    retention_ms: int | None,
) -> None:
    monkeypatch.setattr(message_router, "fetch_delete_retention", lambda *_: retention_ms)
    positions = delete_and_compact(source, 5, 7)
    set_clock(monkeypatch, away_ms)
    with reading(positions=positions) as reader:
        take_until(reader, lambda item: item is Signal.LOADED)


def test_the_worker_stops_if_compaction_may_have_removed_deletes(
    broker: MemoryBroker, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_router, "fetch_delete_retention", lambda *_: DAY_MS)
    positions = delete_and_compact(source, 5, 7)
    set_clock(monkeypatch, 2 * DAY_MS)
    with (
        reading(positions=positions) as reader,
        pytest.raises(
            DataError, match=r"topic shop\.public\.a, partition 0, offset 4: compaction has removed records.*Rebuild"
        ),
    ):
        take_until(reader, lambda item: item is Signal.LOADED)


def test_a_superseded_update_loses_no_delete(
    broker: MemoryBroker, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_router, "fetch_delete_retention", lambda *_: DAY_MS)
    source.put(("c", "a", {"id": 1, "n": 1}))
    positions = {TABLE: Position(1, 4), TRANSACTIONS: Position(2, 5)}
    source.put(("u", "a", {"id": 1, "n": 2}))
    source.put(("u", "a", {"id": 1, "n": 3}))
    source.log[TABLE] = compact(source.log[TABLE], 3)
    set_clock(monkeypatch, 2 * DAY_MS)
    with reading(positions=positions) as reader:
        taken = take_until(reader, lambda item: item is Signal.LOADED)
    assert taken[0] is Signal.GAP


def test_an_interrupted_load_stops_if_it_goes_on_too_late(
    broker: MemoryBroker, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_router, "fetch_delete_retention", lambda *_: DAY_MS)
    positions = delete_and_compact(source, 5, 7)
    began_ms = int(time.time() * 1000) - 2 * DAY_MS
    with (
        reading(positions=positions, loading=True, deletes_known_ms=began_ms) as reader,
        pytest.raises(DataError, match="compaction has removed records"),
    ):
        take_until(reader, lambda item: item is Signal.LOADED)
    # A load that began lately reads every row or its delete.
    with reading(positions=positions, loading=True, deletes_known_ms=began_ms + 2 * DAY_MS) as reader:
        take_until(reader, lambda item: item is Signal.LOADED)


def test_deleted_ends_send_the_replica_back_to_loading(broker: MemoryBroker, source: MemorySource) -> None:
    for key in (1, 2):
        source.put(("c", "a", {"id": key, "n": 1}))
    broker.first_offsets[TRANSACTIONS] = 3
    with reading(positions={TRANSACTIONS: Position(1, 1)}) as reader:
        assert take_until(reader, lambda item: item is Signal.LOADED)[0] is Signal.GAP


def test_a_bad_message_is_raised_after_everything_before_it(broker: MemoryBroker, source: MemorySource) -> None:
    source.put(("c", "a", {"id": 1, "n": 1}))
    source.send("shop.public.a", b"no event", b'{"id":2}', 0)
    source.put(("c", "b", {"id": 3, "n": 1}))
    with reading() as reader:
        taken = take_until(reader, lambda item: b'{"id":3}' in dict(keys([item])))
        assert keys(taken) == [(b'{"id":1}', False), (b'{"id":3}', False)]
        with pytest.raises(DataError, match=r"topic shop\.public\.a, partition 0, offset 1: "):
            take_until(reader, lambda item: False)


def test_the_end_of_a_partition_does_not_hide_a_bad_message_before_it(
    broker: MemoryBroker, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client returns the end of a partition along with its last messages."""
    source.put(("c", "a", {"id": 1, "n": 1}))
    source.send(TRANSACTIONS[0], b"no event", b"{}", 0)
    source.send(TRANSACTIONS[0], b"not read", b"{}", 0)
    poll = Subscription.poll

    def with_end(self: Subscription, timeout: float, limit: int) -> list[Any]:
        messages = poll(self, timeout, limit)
        if any(message.topic() == TRANSACTIONS[0] and not message.error() for message in messages):
            messages.append(ErrorMessage(*TRANSACTIONS, 4, None, None))
        return messages

    monkeypatch.setattr(Subscription, "poll", with_end)
    with reading(once=True) as reader, pytest.raises(DataError, match=r"transaction, partition 0, offset 2: "):
        take_until(reader, lambda item: item is Signal.DONE)


def test_nothing_of_a_new_timeline_is_read_while_its_snapshot_is_pending(
    broker: MemoryBroker, source: MemorySource
) -> None:
    """A pending snapshot would otherwise send the replica back to loading."""
    with reading() as reader:
        notes = {"version": A.version, "timeline": 2, "timeline_lsn": 1_000, "snapshot": "pending"}
        source.send("shop.schema", orjson.dumps(orjson.loads(A.to_json()) | notes), b"{}", 0)
        source.lsn = 1_000
        # BEGIN and END name the timeline too, and come in another partition.
        source.put(("c", "a", {"id": 1, "n": 1}), begin=False, end=False)
        with pytest.raises(SuspectError, match="timeline 2"):
            take_until(reader, has_changes, timeout=5)


def test_positions_move_past_records_without_changes(broker: MemoryBroker, source: MemorySource) -> None:
    source.put(("d", "a", {"id": 1}))
    with reading() as reader:
        taken = take_until(reader, lambda item: isinstance(item, Transaction) and not item.changes)
    last = taken[-1]
    assert isinstance(last, Transaction)
    # The tombstone after the delete also has an offset.
    assert last.positions["shop.public.a", 0].next_offset == 2


def test_the_topic_of_a_new_shape_is_found(broker: MemoryBroker, source: MemorySource) -> None:
    with reading() as reader:
        source.add(shape("later", column("n")))
        source.put(("c", "later", {"id": 1, "n": 1}))
        taken = take_until(reader, has_changes)
    assert keys(taken) == [(b'{"id":1}', False)]
