"""What the reader puts is taken in order, in runs of whole transactions, and its last word comes last."""

from __future__ import annotations

import threading
import time

import pytest

from rowcast.consumer.handover import Handover, Mark
from rowcast.consumer.transactions import Run, Transaction
from rowcast.shared.errors import DataError


def transaction(lsn: int, events: int, *, by_key: bool = False) -> Transaction:
    return Transaction(str(lsn), lsn, 0, [None] * events, by_key=by_key)  # type: ignore[list-item]


def taken(item: Run | Mark | None) -> list[int]:
    assert isinstance(item, Run)
    return [t.lsn for t in item.transactions]


def test_a_run_has_as_many_whole_transactions_as_fit() -> None:
    handover = Handover()
    handover.put([transaction(1, 3), transaction(2, 4), transaction(3, 5), transaction(4, 100), transaction(5, 0)])
    assert handover.events == 112
    assert taken(handover.take(10, 0)) == [1, 2]
    assert taken(handover.take(10, 0)) == [3]
    assert taken(handover.take(10, 0)) == [4]
    assert taken(handover.take(10, 0)) == [5]
    assert handover.take(10, 0) is None
    assert handover.events == 0


def test_marks_part_what_is_before_from_what_is_after() -> None:
    handover = Handover()
    handover.put([transaction(1, 1, by_key=True), transaction(2, 1, by_key=True), Mark.LOADED, transaction(3, 1)])
    assert taken(handover.take(10, 0)) == [1, 2]
    assert handover.take(10, 0) is Mark.LOADED
    assert taken(handover.take(10, 0)) == [3]


def test_what_goes_by_key_is_not_mixed_with_transactions() -> None:
    handover = Handover()
    handover.put([transaction(1, 1, by_key=True), transaction(2, 1)])
    assert taken(handover.take(10, 0)) == [1]
    assert taken(handover.take(10, 0)) == [2]


def test_an_error_comes_after_what_was_put_before_it() -> None:
    handover = Handover()
    handover.put([transaction(1, 1)])
    handover.fail(DataError("bad"))
    assert taken(handover.take(10, 0)) == [1]
    for _ in range(2):
        with pytest.raises(DataError, match="bad"):
            handover.take(10, 0)


def test_the_one_that_waits_is_woken() -> None:
    handover = Handover()
    timer = threading.Timer(0.05, lambda: handover.put([transaction(1, 1)]))
    timer.start()
    began = time.monotonic()
    assert taken(handover.take(10, 30)) == [1]
    assert time.monotonic() - began < 10
    timer.join()


def test_the_reader_waits_for_room_only_while_something_is_there() -> None:
    handover = Handover()
    handover.wait_for_room(30)
    handover.put([transaction(1, 1)])
    timer = threading.Timer(0.05, lambda: handover.take(1, 0))
    began = time.monotonic()
    timer.start()
    handover.wait_for_room(30)
    assert handover.events == 0
    assert time.monotonic() - began < 10
    timer.join()


def test_the_state_that_a_run_leaves_is_that_of_its_greatest_lsn() -> None:
    run = Run([transaction(5, 1, by_key=True), transaction(3, 1, by_key=True), Transaction(None, 0, 0)])
    assert (run.last.lsn, run.events, run.count) == (5, 2, 0)
