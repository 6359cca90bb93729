"""Transactions are assembled whole, in order and once, in every order of partitions."""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.consumer.events.position import Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.transactions import Transaction
from rowcast.consumer.reading import lsn_rules, topic_metadata
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.message_router import MessageRouter
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.skips import Skips
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import TransactionEvent, parse_transaction, transaction_value
from rowcast.shared.kafka.topic_names import schema_topic, transaction_topic
from support import kafka_source, memory_topics
from support.kafka_source import column, shape
from support.memory_consumer import MemoryBroker
from support.memory_topics import MemorySource, compact

SETTINGS = Settings(source="shop", kafka={"bootstrap.servers": "memory"})
A, B = shape("a", column("n")), shape("b", column("n"))

Event = tuple[str, str, dict[str, int]]

REMEMBERED = 8
"""The keys that the merge remembers, so few that earlier events are read again."""

TRANSACTIONS: list[Any] = []
"""The transaction topic of the source that is being read."""


BROKERS: list[MemoryBroker] = []
"""The broker with the topics of the source that is being read."""


@pytest.fixture(scope="module", autouse=True)
def lookup() -> Iterator[None]:
    """Look for earlier records and events in memory."""

    def was_sent_before(_: object, __: object, offset: int, event: TransactionEvent) -> bool:
        found = (parse_transaction(message.value()) for message in TRANSACTIONS[-1][:offset])
        return any((f.lsn, f.status, f.id) == (event.lsn, event.status, event.id) for f in found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lsn_rules, "was_sent_before", was_sent_before)
        patch.setattr(topic_metadata, "new_consumer", lambda *args: BROKERS[-1].new_consumer(*args))
        yield


events = st.lists(
    st.tuples(st.sampled_from(["c", "u", "d"]), st.sampled_from(["a", "b"]), st.integers(0, 5)), min_size=0, max_size=6
)


@dataclass
class Source:
    """Simulate a source whose relay crashes at random and publishes uncommitted messages again."""

    memory: MemorySource
    transactions: list[list[Event]] = field(default_factory=list)

    def write(
        self,
        contents: list[list[tuple[str, str, int]]],
        chance: random.Random,
        partitions: Sequence[int] = (),
        *,
        adds_before_repetitions: bool = False,
    ) -> None:
        """Write transactions.

        ``partitions``: the number of partitions from each transaction on. ``adds_before_repetitions``: an operator adds
        partitions before a relay publishes again.
        """
        for n, content in enumerate(contents):
            self.transactions.append([(op, t, {"id": key, "n": n}) for op, t, key in content])
        at = 0
        lsns = [self.memory.lsn]
        while at < len(self.transactions):
            if partitions:
                self.memory.partitions = max(self.memory.partitions, partitions[at])
            if chance.random() < 0.2:
                # The relay crashes within a claim of some transactions, and publishes the claim again with its lsns.
                cut = chance.randrange(0, len(self.transactions[at]) + 1)
                self.memory.transactions = at
                self.memory.put(*self.transactions[at][:cut], end=False)
                if adds_before_repetitions and chance.random() < 0.5:
                    self.memory.partitions += 1
                at = max(0, at - chance.randrange(0, 3))
                self.memory.lsn = lsns[at]
                del lsns[at + 1 :]
            self.memory.transactions = at
            self.memory.put(*self.transactions[at])
            at += 1
            lsns.append(self.memory.lsn)


@dataclass
class Worker:
    """Run a router that restarts from the positions of the applied transactions."""

    source: Source
    by_key: bool
    positions: dict[tuple[str, int], Position] = field(default_factory=dict)
    applied: list[Transaction] = field(default_factory=list)
    state: dict[tuple[str, bytes], bytes | None] = field(default_factory=dict)

    def start(self) -> None:
        layouts = RowLayouts()
        for one in (A, B):
            layouts.add(one.version, one)
        context = ReaderContext(SETTINGS, layouts, dict(self.positions), loading=self.by_key, buffer_events=REMEMBERED)
        self.router = MessageRouter(context)
        if not self.by_key:
            self.router.history.applied_end_lsn = self.positions.get((transaction_topic("shop"), 0), Position(0, 0)).lsn
        self.streams = {}
        TRANSACTIONS[:] = [self.source.memory.log[transaction_topic("shop"), 0]]
        BROKERS[:] = [MemoryBroker(self.source.memory)]
        for partition in self.source.memory.log:
            if partition[0] == schema_topic("shop"):
                continue
            at = self.positions.get(partition, Position(0, 0))
            kind: Any = "transaction" if partition[0] == transaction_topic("shop") else "table"
            # The target is the end of the partition at the start, as while loading.
            target = max((m.offset() + 1 for m in self.source.memory.log[partition]), default=0)
            self.streams[partition] = PartitionStream(partition, kind, at.next_offset, at.lsn, target=target)

    def read(self, partition: tuple[str, int], count: int) -> None:
        stream = self.streams[partition]
        messages = [m for m in self.source.memory.log[partition] if m.offset() >= stream.next_offset][:count]
        if messages:
            self.router.take(stream, messages)

    def apply(self, most: int) -> None:
        for transaction in self.router.pop_ready(self.streams.values())[:most]:
            self.applied.append(transaction)
            self.positions |= transaction.positions
            for change in transaction.changes:
                self.state[change.layout.table, change.key] = change.after

    def work(self, chance: random.Random, *, crashes: bool = True) -> None:
        """Read and apply at random, with crashes, and then to the end."""
        self.start()
        for _ in range(60):
            self.read(chance.choice(list(self.streams)), chance.randrange(1, 6))
            if chance.random() < 0.5:
                self.apply(10**6)
            if crashes and chance.random() < 0.1:
                # The worker crashes after it has applied some of the transactions.
                self.apply(chance.randrange(0, 3))
                self.start()
        for partition in self.streams:
            self.read(partition, 10**6)
        self.apply(10**6)


def expected_state(transactions: list[list[Event]]) -> dict[tuple[str, int], int | None]:
    state: dict[tuple[str, int], int | None] = {}
    for transaction in transactions:
        for op, table, row in transaction:
            state[f"public.{table}", row["id"]] = None if op == "d" else row["n"]
    return state


def simple(state: dict[tuple[str, bytes], bytes | None]) -> dict[tuple[str, int], int | None]:
    return {
        (table, orjson.loads(key)["id"]): None if after is None else orjson.loads(after)["n"]
        for (table, key), after in state.items()
    }


@given(st.lists(events, max_size=12), st.integers(1, 3), st.randoms(use_true_random=False))
def test_each_transaction_is_applied_once_whole_and_in_order(
    contents: list[list[tuple[str, str, int]]], partitions: int, chance: random.Random
) -> None:
    source = Source(MemorySource(partitions=partitions))
    source.memory.add(A, B)
    source.write(contents, chance)
    worker = Worker(source, by_key=False)
    worker.work(chance)
    applied = [
        [(c.layout.shape.name, c.key, c.after is None) for c in sorted(t.changes, key=lambda c: c.lsn)]
        for t in worker.applied
    ]
    assert applied == [
        [(table, b'{"id":%d}' % row["id"], op == "d") for op, table, row in transaction]
        for transaction in source.transactions
    ]
    assert simple(worker.state) == expected_state(source.transactions)


@given(st.lists(events, max_size=12), st.randoms(use_true_random=False))
def test_each_transaction_is_applied_once_also_when_partitions_are_added(
    contents: list[list[tuple[str, str, int]]], chance: random.Random
) -> None:
    """An event that is published again may come in another partition than before."""
    source = Source(MemorySource(partitions=1))
    source.memory.add(A, B)
    source.write(contents, chance, [1 + n // 3 for n in range(12)], adds_before_repetitions=True)
    worker = Worker(source, by_key=False)
    worker.work(chance)
    assert [len(t.changes) for t in worker.applied] == [len(transaction) for transaction in source.transactions]
    assert simple(worker.state) == expected_state(source.transactions)


@given(st.lists(events, max_size=12), st.integers(1, 3), st.randoms(use_true_random=False))
def test_loading_by_key_ends_in_the_same_state(
    contents: list[list[tuple[str, str, int]]], partitions: int, chance: random.Random
) -> None:
    source = Source(MemorySource(partitions=partitions))
    source.memory.add(A, B)
    source.write(contents, chance)
    worker = Worker(source, by_key=True)
    worker.work(chance)
    assert simple(worker.state) == expected_state(source.transactions)


@given(
    st.lists(events, min_size=12, max_size=12),
    st.lists(st.integers(1, 5), min_size=12, max_size=12),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_loading_ends_in_the_same_state_after_partitions_were_added(
    contents: list[list[tuple[str, str, int]]], partitions: list[int], again: bool, chance: random.Random
) -> None:
    """``again``: partitions are added also before a relay that takes over publishes its predecessor's claims again."""
    source = Source(MemorySource())
    source.memory.add(A, B)
    source.write(contents, chance, partitions, adds_before_repetitions=again)
    worker = Worker(source, by_key=True)
    worker.work(chance)
    assert simple(worker.state) == expected_state(source.transactions)


class NoCrashes(random.Random):
    def random(self) -> float:
        return 1.0


@pytest.mark.parametrize("pieces", [(4, 1), (2, 1, 2)], ids=["held", "released"])
def test_no_position_is_between_a_delete_and_its_tombstone(pieces: tuple[int, ...]) -> None:
    """A worker that starts there takes the tombstone for a later delete. Another partition may have the row again."""
    first, second = (next(k for k in range(9) if zlib.crc32(b'{"id":%d}' % k) % 2 == n) for n in (0, 1))
    source = Source(MemorySource(partitions=2, tombstone_lsns=False))
    source.memory.add(A, B)
    keys = [("c", first), ("d", first), ("c", second), ("c", first), ("u", second)]
    source.write([[(op, "a", key)] for op, key in keys], NoCrashes())
    worker = Worker(source, by_key=True)
    worker.start()
    deleted, other = ("shop.public.a", 0), ("shop.public.a", 1)
    worker.read(other, 1)
    for count in pieces:
        worker.read(deleted, count)
        worker.apply(10**6)
    tombstone = next(m.offset() for m in source.memory.log[deleted] if m.value() is None)
    assert worker.positions[deleted].next_offset > tombstone


@given(
    st.lists(events, min_size=12, max_size=12),
    st.lists(st.integers(1, 5), min_size=12, max_size=12),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_deletes_survive_compaction(
    contents: list[list[tuple[str, str, int]]], partitions: list[int], has_lsns: bool, chance: random.Random
) -> None:
    """Compaction leaves tombstones without their delete events, also in topics to which partitions were added.

    ``has_lsns``: the tombstones have lsns. Otherwise not every history with crashes ends in the same state.
    """
    source = Source(MemorySource(tombstone_lsns=has_lsns))
    clock = itertools.count(1)
    with (
        patch.object(kafka_source, "time", SimpleNamespace(time=lambda: next(clock))),
        patch.object(memory_topics, "time", SimpleNamespace(time=lambda: next(clock))),
    ):
        source.memory.add(A, B)
        source.write(contents, chance, partitions, adds_before_repetitions=has_lsns)
    for partition, log in source.memory.log.items():
        if partition[0] != transaction_topic("shop"):
            source.memory.log[partition] = compact(log, chance.randrange(0, len(log) + 1))
    worker = Worker(source, by_key=True)
    worker.work(chance, crashes=has_lsns)
    expected = expected_state(source.transactions)
    assert {key: n for key, n in simple(worker.state).items() if n is not None} == {
        key: n for key, n in expected.items() if n is not None
    }


@given(st.lists(events, min_size=1, max_size=12), st.integers(1, 3), st.randoms(use_true_random=False))
def test_after_the_cutover_transactions_are_whole(
    contents: list[list[tuple[str, str, int]]], partitions: int, chance: random.Random
) -> None:
    source = Source(MemorySource(partitions=partitions))
    source.memory.add(A, B)
    source.write(contents, random.Random(0))
    worker = Worker(source, by_key=True)
    worker.start()
    for partition in worker.streams:
        worker.read(partition, chance.randrange(0, len(source.memory.log[partition]) + 1))
    worker.apply(10**6)
    tables = [s for s in worker.streams.values() if s.kind == "table"]
    worker.router.cut_over(tables)
    cutover = max(s.lsn for s in tables)
    for partition in worker.streams:
        worker.read(partition, 10**6)
    worker.apply(10**6)
    assert all(t.by_key for t in worker.applied)
    worker.router.cutover.finish()
    worker.apply(10**6)
    assert simple(worker.state) == expected_state(source.transactions)
    whole = [t for t in worker.applied if not t.by_key]
    assert [t.lsn for t in whole] == sorted(t.lsn for t in whole)
    for transaction in whole:
        assert transaction.lsn > cutover
        n = int(transaction.id or 0) - 701
        assert len(transaction.changes) == len(source.transactions[n])
    assert all(change.lsn <= cutover or t.id is not None for t in worker.applied for change in t.changes)


def router_of(source: MemorySource) -> tuple[MessageRouter, dict[tuple[str, int], PartitionStream]]:
    worker = Worker(Source(source), by_key=False)
    worker.start()
    return worker.router, worker.streams


def test_an_end_that_counts_too_few_events_is_refused() -> None:
    source = MemorySource()
    source.add(A, B)
    source.put(("c", "a", {"id": 1, "n": 1}), ("c", "a", {"id": 2, "n": 1}), end=False, id="7")
    source.lsn += 1
    end = TransactionEvent("END", "7", 0, source.lsn, 1, {"public.a": 1})
    source.send(transaction_topic("shop"), transaction_value(end), b"", 0)
    router, streams = router_of(source)
    for partition, stream in streams.items():
        if source.log[partition]:
            router.take(stream, source.log[partition])
    with pytest.raises(DataError, match=r"transaction 7: 2 events were read, but its END \(lsn 6\) counts 1"):
        router.pop_ready([])


def test_transaction_ids_of_debezium_carry_each_events_lsn() -> None:
    source = MemorySource()
    source.add(A)
    for lsn, key in ((11, 1), (12, 2)):
        source.event("c", "public.a", {"id": key, "n": 0}, lsn, f"570:{lsn}")
    end = TransactionEvent("END", "570:13", 0, 13, 2, {"public.a": 2})
    source.send(transaction_topic("shop"), transaction_value(end), b"", 0)
    router, streams = router_of(source)
    for partition, stream in streams.items():
        if source.log[partition]:
            router.take(stream, source.log[partition])
    [transaction] = router.pop_ready([])
    assert (transaction.id, len(transaction.changes)) == ("570", 2)


def test_an_event_of_no_transaction_waits_for_those_before_it() -> None:
    source = MemorySource()
    source.add(A)
    source.put(("c", "a", {"id": 1, "n": 1}))
    source.lsn += 1
    source.event("r", "public.a", {"id": 2, "n": 2}, source.lsn, None)
    source.put(("c", "a", {"id": 3, "n": 3}))
    router, streams = router_of(source)
    table = next(s for p, s in streams.items() if p[0] == "shop.public.a")
    marks = streams[transaction_topic("shop"), 0]
    begin_1, end_1, begin_2, end_2 = source.log[marks.partition]
    router.take(table, source.log[table.partition])
    # The stream is at its end, but another END may come.
    marks.at_end = True
    assert router.pop_ready([marks]) == []
    router.take(marks, [begin_1, end_1])
    assert [t.id for t in router.pop_ready([marks])] == ["701"]
    marks.at_end = True
    assert router.pop_ready([marks]) == []
    router.take(marks, [begin_2])
    assert [t.id for t in router.pop_ready([marks])] == [None]
    router.take(marks, [end_2])
    assert [t.id for t in router.pop_ready([marks])] == ["702"]


def test_tables_outside_the_replica_do_not_count() -> None:
    source = MemorySource()
    source.add(A, B)
    source.put(("c", "a", {"id": 1, "n": 1}), ("c", "b", {"id": 1, "n": 1}))
    layouts = RowLayouts(["public.a"])
    layouts.add(A.version, A)
    router = MessageRouter(ReaderContext(SETTINGS, layouts))
    for topic, kind in (("shop.public.a", "table"), ("shop.transaction", "transaction")):
        router.take(PartitionStream((topic, 0), kind, 0), source.log[topic, 0])  # type: ignore[arg-type]
    [transaction] = router.pop_ready([])
    assert [c.layout.table for c in transaction.changes] == ["public.a"]


def taken(router: MessageRouter, source: MemorySource, *partitions: tuple[str, int]) -> dict[tuple[str, int], Any]:
    """Let the router take everything of these partitions. Return the streams."""
    streams: dict[tuple[str, int], Any] = {}
    for partition in partitions:
        kind: Any = "transaction" if partition[0] == transaction_topic("shop") else "table"
        streams[partition] = PartitionStream(partition, kind, 0)
        router.take(streams[partition], source.log[partition])
    return streams


def new_router(*skip: str, loading: bool = False) -> MessageRouter:
    layouts = RowLayouts()
    layouts.add(A.version, A)
    context = ReaderContext(SETTINGS, layouts, loading=loading, skips=Skips(skip))
    return MessageRouter(context)


TABLE, TRANSACTION_TOPIC = ("shop.public.a", 0), (transaction_topic("shop"), 0)


def test_an_event_whose_first_sending_compaction_has_removed_is_taken() -> None:
    """A relay sent three transactions, crashed, and sent them again."""
    source = MemorySource()
    source.add(A)
    before = source.lsn
    for _ in range(2):
        source.lsn, source.transactions = before, 0
        for key in (1, 2, 3):
            source.put(("c", "a", {"id": key, "n": 0}))
    # Compaction has cleaned the topic as far as the second sending of key 1.
    del source.log[TABLE][0]
    router = new_router()
    streams = taken(router, source, TRANSACTION_TOPIC, TABLE)
    applied = router.pop_ready(list(streams.values()))
    assert [(t.id, [c.key for c in t.changes]) for t in applied] == [
        (str(701 + n), [b'{"id":%d}' % (n + 1)]) for n in range(3)
    ]


def test_a_message_with_the_lsn_of_another_is_no_repetition() -> None:
    source = MemorySource()
    source.add(A)
    before = source.lsn
    source.put(("c", "a", {"id": 1, "n": 0}))
    router = new_router()
    streams = taken(router, source, TRANSACTION_TOPIC, TABLE)
    assert len(router.pop_ready(list(streams.values()))) == 1
    source.lsn = before
    source.put(("c", "a", {"id": 2, "n": 0}))
    with pytest.raises(DataError, match=r"offset 1: the lsn 3 goes back: transactions up to lsn 4") as error:
        router.take(streams[TABLE], source.log[TABLE][1:])
    assert error.value.skip == "shop.public.a:0:1"
    with pytest.raises(DataError, match=r"offset 2: the BEGIN of transaction 702 has the lsn 2, which goes back"):
        router.take(streams[TRANSACTION_TOPIC], source.log[TRANSACTION_TOPIC][2:])


@pytest.mark.parametrize("loading", [False, True])
def test_an_lsn_far_above_all_others_is_refused(loading: bool) -> None:
    source = MemorySource()
    source.add(A)
    source.put(("c", "a", {"id": 1, "n": 0}))
    source.event("c", "public.a", {"id": 2, "n": 0}, 2**61, "x")
    router = new_router(loading=loading)
    with pytest.raises(DataError, match="offset 1: the lsn 2305843009213693952 is far above"):
        taken(router, source, TABLE)


def test_a_skipped_transaction_and_a_skipped_message_are_not_applied_by_key() -> None:
    source = MemorySource()
    source.add(A)
    for key in (1, 2, 3):
        source.put(("c", "a", {"id": key, "n": 0}))
    router = new_router("701", "shop.public.a:0:1", loading=True)
    streams = taken(router, source, TABLE)
    [transaction] = router.pop_ready(list(streams.values()))
    assert [c.key for c in transaction.changes] == [b'{"id":3}']
    assert streams[TABLE].next_offset == 3


def test_a_skipped_transaction_is_not_applied_at_the_cutover() -> None:
    """Its event has a smaller lsn than the cutover, and is read after it."""
    source = MemorySource(partitions=2)
    source.add(A)
    for key in range(1, 9):
        source.put(("c", "a", {"id": key, "n": 0}))
    tables = [partition for partition in source.log if partition[0] == TABLE[0]]
    late, early = sorted(tables, key=lambda partition: source.log[partition][0].key() != b'{"id":1}')
    router = new_router("701", loading=True)
    streams = taken(router, source, early)
    streams[late] = PartitionStream(late, "table", 0)
    router.cut_over(list(streams.values()))
    router.take(streams[late], source.log[late])
    changes = [change for t in router.pop_ready(list(streams.values())) for change in t.changes]
    assert changes
    assert b'{"id":1}' not in [change.key for change in changes]
