"""A run has the sums of its transactions, and the state of the highest lsn."""

from __future__ import annotations

from typing import Any

from rowcast.consumer.events.position import Position
from rowcast.consumer.events.transactions import Run, Transaction


def transaction(id: str | None, lsn: int, events: int, **options: Any) -> Transaction:
    return Transaction(id, lsn, 0, [None] * events, **options)  # type: ignore[list-item]


def test_a_run_counts_events_and_source_transactions() -> None:
    run = Run([transaction("1", 5, 2), transaction(None, 6, 1), transaction("2", 9, 0)])
    assert (run.event_count, run.transaction_count, run.by_key) == (3, 2, False)
    assert Run([transaction("1", 5, 2, by_key=True)]).transaction_count == 0


def test_by_key_the_last_transaction_need_not_have_the_greatest_lsn() -> None:
    run = Run([transaction("1", 5, 2, by_key=True), transaction("2", 3, 1, by_key=True)])
    assert run.last.id == "1"


def test_later_transactions_have_the_later_positions() -> None:
    first = {("a", 0): Position(1, 1), ("b", 0): Position(5, 5)}
    run = Run([transaction("1", 1, 0, positions=first), transaction("2", 2, 0, positions={("a", 0): Position(2, 2)})])
    assert run.positions() == {("a", 0): Position(2, 2), ("b", 0): Position(5, 5)}
