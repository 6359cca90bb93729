"""The queue returns whole transactions in order, in runs, and the reader's error last."""

from __future__ import annotations

import threading
import time

import pytest

from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.reading.transaction_queue import Signal, TransactionQueue
from rowcast.shared.errors import DataError


def transaction(lsn: int, events: int, *, by_key: bool = False) -> Transaction:
    return Transaction(str(lsn), lsn, 0, [None] * events, by_key=by_key)  # type: ignore[list-item]


def taken(item: Run | Signal | None) -> list[int]:
    assert isinstance(item, Run)
    return [t.lsn for t in item.transactions]


def test_a_run_has_as_many_whole_transactions_as_fit() -> None:
    queue = TransactionQueue()
    queue.put([transaction(1, 3), transaction(2, 4), transaction(3, 5), transaction(4, 100), transaction(5, 0)])
    assert queue.event_count == 112
    assert taken(queue.take(10, 0)) == [1, 2]
    assert taken(queue.take(10, 0)) == [3]
    assert taken(queue.take(10, 0)) == [4]
    assert taken(queue.take(10, 0)) == [5]
    assert queue.take(10, 0) is None
    assert queue.event_count == 0


def test_signals_separate_the_transactions_before_and_after() -> None:
    queue = TransactionQueue()
    queue.put([transaction(1, 1, by_key=True), transaction(2, 1, by_key=True), Signal.LOADED, transaction(3, 1)])
    assert taken(queue.take(10, 0)) == [1, 2]
    assert queue.take(10, 0) is Signal.LOADED
    assert taken(queue.take(10, 0)) == [3]


def test_changes_by_key_are_not_mixed_with_transactions() -> None:
    queue = TransactionQueue()
    queue.put([transaction(1, 1, by_key=True), transaction(2, 1)])
    assert taken(queue.take(10, 0)) == [1]
    assert taken(queue.take(10, 0)) == [2]


def test_an_error_comes_after_what_was_put_before_it() -> None:
    queue = TransactionQueue()
    queue.put([transaction(1, 1)])
    queue.fail(DataError("bad"))
    assert taken(queue.take(10, 0)) == [1]
    for _ in range(2):
        with pytest.raises(DataError, match="bad"):
            queue.take(10, 0)


def test_a_waiting_applier_is_woken() -> None:
    queue = TransactionQueue()
    timer = threading.Timer(0.05, lambda: queue.put([transaction(1, 1)]))
    timer.start()
    began = time.monotonic()
    assert taken(queue.take(10, 30)) == [1]
    assert time.monotonic() - began < 10
    timer.join()


def test_the_reader_waits_for_room_only_while_something_is_there() -> None:
    queue = TransactionQueue()
    queue.wait_for_room(30)
    queue.put([transaction(1, 1)])
    timer = threading.Timer(0.05, lambda: queue.take(1, 0))
    began = time.monotonic()
    timer.start()
    queue.wait_for_room(30)
    assert queue.event_count == 0
    assert time.monotonic() - began < 10
    timer.join()


def test_a_run_leaves_the_state_of_the_greatest_lsn() -> None:
    run = Run([transaction(5, 1, by_key=True), transaction(3, 1, by_key=True), Transaction(None, 0, 0)])
    assert (run.last.lsn, run.event_count, run.transaction_count) == (5, 2, 0)


def test_a_transaction_that_is_too_young_stays_with_everything_after_it() -> None:
    queue = TransactionQueue()
    old, young, older = (Transaction(f"t{n}", n, ts_ms) for n, ts_ms in enumerate((1_000, 3_000, 500), 1))
    queue.put([old, young, older, Signal.DONE])
    assert queue.take(10, 0, until_ms=2_000) == Run([old])
    assert not queue.is_too_young
    assert queue.take(10, 0, until_ms=2_000) is None
    assert queue.is_too_young
    assert queue.take(10, 0, until_ms=3_000) == Run([young, older])
    assert queue.take(10, 0, until_ms=0) is Signal.DONE
    assert not queue.is_too_young
