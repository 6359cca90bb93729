"""Fast path and full path leave equal rows, and every valid run is applied, on SQLite."""

from __future__ import annotations

import gc
import random
import tracemalloc
from dataclasses import astuple, replace
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.consumer.events import spilled_changes
from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Position
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.replica import applier
from rowcast.consumer.replica.positions import read_row
from rowcast.consumer.replica.refusals import ConflictError, ValueRefusedError
from rowcast.shared.errors import FencedError, RetriableError
from support.kafka_source import column, shape
from support.memory_replica import MemoryReplica, memory_replica

PARTITION = ("topic", 0)
CITY = shape("city", column("name", "text"), unique=[("name",)])
HOUSE = shape("house", column("city_id"), refers=[("city_id", "city")])
LAYOUTS = {s.name: RowLayout(s, tuple(c.name for c in s.columns)) for s in (CITY, HOUSE)}


def stored(replica: MemoryReplica) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows, without the stamp and the times of ``rowcast_replica``."""
    found = {name: replica.rows(name) for name in ("city", "house", "rowcast_position")}
    with replica.connection.begin():
        row = read_row(replica.connection, "shop")
    assert row is not None
    return found | {"rowcast_replica": [astuple(replace(row, stamp=0, deletes_known_ms=0))]}


def change(table: str, key: int, value: Any, lsn: int, *, delete: bool = False) -> Change:
    name = "name" if table == "city" else "city_id"
    text = f'"{value}"' if table == "city" and value is not None else "null" if value is None else str(value)
    image = None if delete else f'{{"id":{key},"{name}":{text}}}'.encode()
    return Change(LAYOUTS[table], b'{"id":%d}' % key, image, lsn, "7", 1, PARTITION, lsn)


def transaction(*changes: Change) -> Transaction:
    last = changes[-1].lsn
    return Transaction(str(last), last, 1, list(changes), {PARTITION: Position(last + 1, last)})


lines = st.lists(
    st.tuples(st.sampled_from(["city", "house"]), st.integers(0, 4), st.integers(0, 9), st.booleans()), min_size=1
)


@given(st.lists(lines, min_size=1, max_size=6))
def test_the_fast_path_leaves_what_the_full_path_leaves(contents: list[list[tuple[str, int, int, bool]]]) -> None:
    lsn = 0
    transactions = []
    for content in contents:
        changes = []
        for table, key, value, delete in content:
            lsn += 1
            changes.append(change(table, key, value, lsn, delete=delete))
        transactions.append(transaction(*changes))
    with memory_replica(CITY, HOUSE) as folded, memory_replica(CITY, HOUSE) as in_order:
        folded.applier.apply_folded(folded.connection, Run(transactions))
        for one in transactions:
            in_order.applier.apply_in_order(in_order.connection, one)
        assert stored(folded) == stored(in_order)
        assert folded.applier.lsn == in_order.applier.lsn == lsn


@given(lines)
def test_a_large_transaction_in_pieces_leaves_what_the_full_path_leaves(
    content: list[tuple[str, int, int, bool]],
) -> None:
    changes = [change(table, key, value, lsn, delete=delete) for lsn, (table, key, value, delete) in enumerate(content)]
    whole = transaction(*changes)
    large = replace(whole, changes=SpilledChanges(whole.id, changes))
    with pytest.MonkeyPatch.context() as patch, memory_replica(CITY, HOUSE) as in_pieces:
        patch.setattr(applier, "_PIECE_EVENTS", 3)
        in_pieces.applier.apply(in_pieces.connection, Run([large]))
        with memory_replica(CITY, HOUSE) as in_order:
            in_order.applier.apply_in_order(in_order.connection, whole)
            assert stored(in_pieces) == stored(in_order)
            with memory_replica(CITY, HOUSE) as in_runs:
                assert isinstance(large.changes, SpilledChanges)
                in_runs.applier._apply_in_runs(in_runs.connection, large, large.changes)
                assert stored(in_runs) == stored(in_order)


def test_a_large_transaction_that_conflicts_in_pieces_takes_little_memory(caplog: pytest.LogCaptureFixture) -> None:
    """Two rows swap a unique value by way of a third value, which their last states do not show."""
    events = 6_000
    before = transaction(change("city", 1, "a", 1), change("city", 2, "b", 2))
    swap = [change("city", 1, "free", 3), change("city", 2, "a", 4), change("city", 1, "b", 5)]
    inserts = (change("city", n, f"{n:04000}", n)._replace(partition=("topic", 1)) for n in range(6, events))
    with memory_replica(CITY, HOUSE) as replica, pytest.MonkeyPatch.context() as patch:
        patch.setattr(applier, "_PIECE_EVENTS", 100)
        patch.setattr(spilled_changes, "_BLOCK_EVENTS", 100)
        assert replica.constraints.create(replica.connection)
        replica.applier.apply(replica.connection, Run([before]))
        gc.collect()
        tracemalloc.start()
        try:
            large = replace(transaction(*swap), changes=SpilledChanges("7", chain(swap, inserts)))
            replica.applier.apply(replica.connection, Run([large]))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert [name for _, name in replica.rows("city")][:2] == ["b", "a"]
        assert len(replica.rows("city")) == events - 4
    # In memory, the changes would take more than 24 MB.
    assert peak < 10_000_000
    assert "read into memory" not in caplog.text


def test_pieces_that_conflict_are_applied_together(caplog: pytest.LogCaptureFixture) -> None:
    with memory_replica(CITY, HOUSE) as replica, pytest.MonkeyPatch.context() as patch:
        patch.setattr(applier, "_PIECE_EVENTS", 1)
        assert replica.constraints.create(replica.connection)
        first = transaction(change("city", 1, "a", 1), change("city", 2, "b", 2))
        replica.applier.apply(replica.connection, Run([first]))
        swapped = [change("city", 1, "b", 3), change("city", 2, "a", 4)]
        large = replace(transaction(*swapped), changes=SpilledChanges("4", swapped))
        replica.applier.apply(replica.connection, Run([large]))
        assert replica.rows("city") == [(1, "b"), (2, "a")]
    assert "cannot be applied in pieces" in caplog.text


def test_a_refused_value_in_a_piece_names_its_event_and_rolls_back() -> None:
    dated = shape("city", column("name", "date"))
    layout = RowLayout(dated, ("id", "name"))
    changes = [change("city", n, "soon" if n == 5 else "2026-01-01", n)._replace(layout=layout) for n in range(1, 8)]
    large = replace(transaction(*changes), changes=SpilledChanges("7", changes))
    with memory_replica(dated) as replica, pytest.MonkeyPatch.context() as patch:
        patch.setattr(applier, "_PIECE_EVENTS", 2)
        with pytest.raises(ValueRefusedError, match=r"table public\.city \(topic topic, partition 0, offset 5\)"):
            replica.applier.apply(replica.connection, Run([large]))
        assert replica.rows("city") == []


def test_a_stop_between_pieces_rolls_the_transaction_back() -> None:
    with memory_replica(CITY, HOUSE) as replica, pytest.MonkeyPatch.context() as patch:
        patch.setattr(applier, "_PIECE_EVENTS", 1)
        calls: list[int] = []

        def stop() -> None:
            calls.append(len(calls))
            if len(calls) == 3:
                raise RetriableError("stopped")

        patch.setattr(replica.applier, "_between_pieces", stop)
        changes = [change("city", n, str(n), n) for n in range(5)]
        large = replace(transaction(*changes), changes=SpilledChanges("4", changes))
        with pytest.raises(RetriableError, match="stopped"):
            replica.applier.apply(replica.connection, Run([large]))
        assert replica.rows("city") == []
        # The next attempt reads the file again.
        replica.applier.apply(replica.connection, Run([large]))
        assert len(replica.rows("city")) == 5


states = st.lists(st.dictionaries(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5)


@given(states, st.randoms(use_true_random=False))
def test_a_run_between_valid_states_is_applied_whatever_unique_values_move(
    states: list[dict[int, int]], chance: random.Random
) -> None:
    """The end of each transaction satisfies the unique key. Single changes need not."""
    lsn = 0
    before: dict[int, int] = {}
    transactions = []
    for state in states:
        valid = {key: name for key, name in state.items() if list(state.values()).count(name) == 1}
        steps = [(key, valid.get(key)) for key in before.keys() | valid.keys() if before.get(key) != valid.get(key)]
        chance.shuffle(steps)
        changes = []
        for key, name in steps:
            lsn += 1
            changes.append(change("city", key, name, lsn, delete=name is None))
        if changes:
            transactions.append(transaction(*changes))
        before = valid
    with memory_replica(CITY, HOUSE) as replica:
        assert replica.constraints.create(replica.connection)
        if transactions:
            replica.applier.apply(replica.connection, Run(transactions))
        assert replica.rows("city") == sorted((key, str(name)) for key, name in before.items())


def test_everything_before_a_transaction_that_cannot_be_applied_stays_applied() -> None:
    with memory_replica(CITY, HOUSE) as replica:
        assert replica.constraints.create(replica.connection)
        good, bad = transaction(change("city", 1, "a", 1)), transaction(change("city", 2, "a", 2))
        with pytest.raises(ConflictError, match=r"table public\.city \(topic .*offset 2"):
            replica.applier.apply(replica.connection, Run([good, bad]))
        assert replica.rows("city") == [(1, "a")]
        assert replica.rows("rowcast_position") == [("shop", "topic", 0, 2, 1, None, 0)]


def test_an_incomplete_run_raises_its_conflict_at_once() -> None:
    with memory_replica(CITY, HOUSE) as replica:
        assert replica.constraints.create(replica.connection)
        run = Run([transaction(change("city", 1, "a", 1)), transaction(change("city", 2, "a", 2))])
        with pytest.raises(ConflictError):
            replica.applier.apply(replica.connection, run, complete=False)
        assert replica.rows("city") == []


def test_a_refused_value_names_its_event() -> None:
    thing = shape("city", column("name", "date"))
    bad = change("city", 1, "soon", 1)._replace(layout=RowLayout(thing, ("id", "name")))
    with (
        memory_replica(thing) as replica,
        pytest.raises(ValueRefusedError, match=r"public\.city.*column name: a date"),
    ):
        replica.applier.apply(replica.connection, Run([transaction(bad)]))


def test_a_fenced_worker_writes_nothing() -> None:
    with memory_replica(CITY, epoch=0) as replica:
        with pytest.raises(FencedError, match="another worker has taken over"):
            replica.applier.apply(replica.connection, Run([transaction(change("city", 1, "a", 1))]))
        assert replica.rows("city") == []
