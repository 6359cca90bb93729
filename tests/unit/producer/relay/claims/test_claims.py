"""Claims are recorded before the relay sends, and deleted after Kafka has committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rowcast.producer.relay.claims.partial_transaction import PartialTransaction
from support.relay.lease_contract import (
    WRITES,
    Lead,
    add_orders,
    assert_a_relay_that_lost_the_lease_changes_nothing,
    leaders,
)
from support.relay.primary import Primary, primary_at


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    with primary_at(tmp_path / "primary.db") as primary:
        add_orders(primary)
        yield primary


@pytest.fixture
def lead(primary: Primary) -> Iterator[Lead]:
    with leaders(primary) as lead:
        yield lead


def test_claims_take_consecutive_lsns(lead: Lead) -> None:
    claims = lead()
    first = claims.record([1, 2], 6, None)
    second = claims.record([3], 3, None)
    assert (first.first_lsn, first.last_lsn, second.first_lsn, second.last_lsn) == (1, 6, 7, 9)
    assert claims.claimed == {1, 2, 3}


def test_the_successor_finds_the_claims_in_order(lead: Lead) -> None:
    before = lead()
    partial = PartialTransaction("t3", 3, 9, {"public.orders": 1})
    expected = [before.record([2, 1], 6, None), before.record([3], 2, partial), before.record([4], 3, None)]
    after = lead()
    assert after.pending == expected
    assert after.pending[2].carried_in == partial
    assert after.claimed == {1, 2, 3, 4}
    assert after.lease.next_lsn == 12
    assert after.partial is None


def test_what_a_claim_leaves_unfinished_outlives_the_claim(lead: Lead) -> None:
    claims = lead()
    partial = PartialTransaction("t1", 1, 9, {"public.orders": 1})
    claims.record([1], 2, partial)
    claims.mark_committed(2)
    claims.settle()
    after = lead()
    assert after.pending == []
    assert after.partial == partial


def test_rows_are_deleted_with_the_next_claim_after_kafka_has_committed_them(primary: Primary, lead: Lead) -> None:
    claims = lead()
    claims.record([1, 2], 6, None)
    claims.record([3], 3, None)
    claims.mark_committed(6)
    assert primary.ids() == [1, 2, 3, 4, 5, 6]
    claims.record([4], 3, None)
    assert primary.ids() == [3, 4, 5, 6]
    assert primary.claims() == 2
    assert claims.claimed == {3, 4}
    assert claims.lease.published_lsn == 6


def test_settling_deletes_them_at_once(primary: Primary, lead: Lead) -> None:
    claims = lead()
    claims.record([1, 2], 6, None)
    claims.mark_committed(6)
    claims.settle()
    assert primary.ids() == [3, 4, 5, 6]
    assert primary.claims() == 0
    assert (claims.pending, claims.claimed) == ([], set())


@pytest.mark.parametrize("write", WRITES)
def test_a_relay_that_lost_the_lease_changes_nothing(primary: Primary, lead: Lead, write: str) -> None:
    assert_a_relay_that_lost_the_lease_changes_nothing(primary, lead, write)
