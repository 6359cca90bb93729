"""The relay claims whole transactions in the order of their end ids, and each row once."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.producer.relay.claims.outbox_reader import Head
from rowcast.producer.relay.claims.partial_transaction import PartialTransaction
from rowcast.producer.relay.claims.selection import Limits, Selection
from rowcast.producer.relay.claims.selection import select_next as select_knowing
from rowcast.producer.relay.claims.transaction_ends import TransactionEnds
from rowcast.shared.errors import DataError
from support.relay.fake_outbox import FakeOutbox

AMPLE = Limits(rows=100, size=10_000)


def row(id_: int, tx: str, complete: bool | None = True, size: int = 1) -> Head:
    return Head(id_, tx, 0, complete, size)


def select_next(
    outbox: FakeOutbox, claimed: Collection[int], unfinished: PartialTransaction | None, limits: Limits
) -> Selection:
    """Select without remembered transaction ends."""
    return select_knowing(outbox, TransactionEnds(), claimed, unfinished, limits)


def outbox_of(*heads: Head) -> FakeOutbox:
    outbox = FakeOutbox()
    outbox.add(*heads)
    return outbox


def ids(selection: Selection) -> list[int]:
    return [head.id for head in selection.heads]


def test_a_claim_says_whether_more_rows_wait() -> None:
    outbox = outbox_of(row(1, "a"), row(2, "b"), row(3, "c", None), row(4, "c"))
    assert not select_next(outbox, (), None, AMPLE).more
    assert not select_next(outbox, {1, 2}, None, Limits(2, 100)).more
    assert select_next(outbox, (), None, Limits(2, 100)).more
    assert select_next(outbox, {1, 2}, None, Limits(1, 100)).more


def test_an_empty_outbox_gives_nothing() -> None:
    assert select_next(FakeOutbox(), (), None, AMPLE) == Selection()


def test_rows_that_are_claimed_are_not_claimed_again() -> None:
    outbox = outbox_of(row(1, "a"), row(2, "b"))
    assert ids(select_next(outbox, {1}, None, AMPLE)) == [2]
    assert select_next(outbox, {1, 2}, None, AMPLE) == Selection()


def test_interleaved_transactions_come_one_after_another_by_their_greatest_id() -> None:
    outbox = outbox_of(row(1, "a", None), row(2, "b", None), row(3, "b"), row(4, "a"))
    assert ids(select_next(outbox, (), None, AMPLE)) == [2, 3, 1, 4]


def test_a_row_that_becomes_visible_late_is_not_missed() -> None:
    outbox = outbox_of(row(2, "b"))
    assert ids(select_next(outbox, (), None, AMPLE)) == [2]
    outbox.add(row(1, "a"))
    assert ids(select_next(outbox, {2}, None, AMPLE)) == [1]


def test_a_transaction_that_the_limit_cuts_is_left_for_the_next_claim() -> None:
    outbox = outbox_of(row(1, "a"), row(2, "b", None), row(3, "b", None), row(4, "b"))
    assert ids(select_next(outbox, (), None, Limits(2, 100))) == [1]
    assert outbox.scans == 0


def test_transactions_that_end_before_an_unknown_one_need_no_further_scan() -> None:
    outbox = outbox_of(row(1, "a"), row(2, "b", None), row(3, "c"), row(4, "b", None), row(5, "b"))
    assert ids(select_next(outbox, (), None, Limits(2, 100))) == [1]
    assert outbox.scans == 0


def test_unmarked_rows_of_triggers_are_whole_when_nothing_follows() -> None:
    outbox = outbox_of(row(1, "a", None), row(2, "a", None), row(3, "b", None), row(4, "c", None))
    assert ids(select_next(outbox, (), None, Limits(2, 100))) == [1, 2]


def test_a_transaction_larger_than_a_claim_is_streamed_over_several() -> None:
    outbox = outbox_of(*(row(n, "a", None) for n in range(1, 6)), row(6, "a"), row(7, "b"))
    first = select_next(outbox, (), None, Limits(4, 100))
    assert (ids(first), first.end_id) == ([1, 2, 3, 4], 6)
    second = select_next(outbox, {1, 2, 3, 4}, PartialTransaction("a", 4, 6), Limits(4, 100))
    assert (ids(second), second.end_id) == ([5, 6], None)


def test_of_two_large_transactions_the_first_to_end_goes_first() -> None:
    outbox = outbox_of(*(row(n, "ab"[n % 2], None) for n in range(1, 9)), row(9, "a"), row(10, "b"))
    first = select_next(outbox, (), None, Limits(3, 100))
    assert {head.tx for head in first.heads} == {"a"}
    assert (ids(first), first.end_id) == ([2, 4, 6], 9)


def test_a_small_transaction_behind_the_cut_that_ends_first_goes_first() -> None:
    large = [row(n, "a", None) for n in (1, 2, 3, 4, 5, 7)]
    assert ids(select_next(outbox_of(*large, row(6, "b"), row(8, "a")), (), None, Limits(3, 100))) == [6]


def test_a_claim_holds_no_more_bytes_than_it_may() -> None:
    outbox = outbox_of(row(1, "a", size=40), row(2, "b", size=40), row(3, "c", size=40))
    assert ids(select_next(outbox, (), None, Limits(10, 100))) == [1, 2]


def test_a_row_larger_than_a_claim_goes_alone() -> None:
    outbox = outbox_of(row(1, "a", None, 500), row(2, "a", True, 500), row(3, "b"))
    first = select_next(outbox, (), None, Limits(10, 100))
    assert (ids(first), first.end_id) == ([1], 2)


def test_nothing_is_claimed_past_a_transaction_whose_rest_is_gone() -> None:
    with pytest.raises(DataError, match="transaction a after id 4, up to 6, are missing"):
        select_next(outbox_of(row(7, "b")), (), PartialTransaction("a", 4, 6), AMPLE)


def test_what_comes_before_a_damaged_row_is_its_predecessors_alone() -> None:
    selection = select_next(outbox_of(row(1, "a"), row(2, "b", None), row(3, "b"), row(4, "c")), (), None, AMPLE)
    assert ids(selection.before_transaction("b")) == [1]
    assert ids(selection.before_transaction("a")) == []


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[Head]], list[int]]:
    """Draw transactions with interleaved ids in the order of visibility, and how many are visible before each claim."""
    count = draw(st.integers(1, 8))
    owners = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=40))
    rows: dict[int, list[Head]] = {}
    for id_, owner in enumerate(owners, 1):
        rows.setdefault(owner, []).append(row(id_, f"t{owner}", None, draw(st.integers(1, 9))))
    for owner, heads in rows.items():
        if draw(st.booleans()):
            marked = heads[-1]
            rows[owner] = [*heads[:-1], Head(marked.id, marked.tx, 0, True, marked.size)]
    order = draw(st.permutations(list(rows.values())))
    return order, draw(st.lists(st.integers(0, 3), min_size=1, max_size=12))


@given(histories(), st.integers(1, 6), st.integers(1, 30), st.integers(0, 5), st.none() | st.integers(1, 6))
def test_each_row_is_claimed_once_and_transactions_are_never_interleaved(
    history: tuple[list[list[Head]], list[int]], rows: int, size: int, kept: int, remembered: int | None
) -> None:
    """``remembered``: number of transaction ends that are cached over all claims, or None for no cache."""
    transactions, arrivals = history
    outbox, claimed, unfinished = FakeOutbox(), list[int](), None
    published: list[Head] = []
    visible_since: dict[str, int] = {}
    ends = TransactionEnds(remembered or 1)
    waiting = iter(enumerate([*arrivals, *([len(transactions)] * 200)]))
    while True:
        now, arriving = next(waiting)
        for _ in range(arriving):
            if transactions:
                outbox.add(*transactions[0])
                visible_since[transactions.pop(0)[0].tx] = now
        done = {head.tx for head in published} - ({unfinished.tx} if unfinished else set())
        if remembered is None:
            ends = TransactionEnds()
        selection = select_knowing(outbox, ends, set(claimed), unfinished, Limits(rows, size))
        if not selection.heads:
            if not transactions:
                break
            continue
        assert len(selection.heads) <= rows
        assert len(selection.heads) == 1 or sum(head.size for head in selection.heads) <= size
        first, *others = dict.fromkeys(head.tx for head in selection.heads)
        if unfinished is not None:
            assert (first, others) == (unfinished.tx, [])
        elif remembered is None:
            # The claim takes the transactions with the lowest end ids of all visible transactions, without a gap.
            expected = [tx for tx in outbox.by_end() if tx not in done]
            assert [first, *others] == expected[: 1 + len(others)]
        ends.drop(head.tx for head in selection.heads)
        published += selection.heads
        claimed += ids(selection)
        last = selection.heads[-1]
        unfinished = PartialTransaction(last.tx, last.id, selection.end_id) if selection.end_id else None
        # The oldest claims are deleted later.
        while len(claimed) > kept:
            del outbox.visible[claimed.pop(0)]
    assert unfinished is None
    assert sorted(head.id for head in published) == list(range(1, len(published) + 1))
    by_transaction = [head.tx for n, head in enumerate(published) if n == 0 or published[n - 1].tx != head.tx]
    assert len(by_transaction) == len(set(by_transaction)), "a transaction's rows are not together"
    end = {}
    for tx in by_transaction:
        mine = [head.id for head in published if head.tx == tx]
        assert mine == sorted(mine)
        end[tx] = mine[-1]
    for one, other in combinations(by_transaction, 2):
        depends = end[other] < end[one] and visible_since[other] <= visible_since[one]
        assert not depends, f"{one} may depend on {other}, which comes later"


def published_of(outbox: FakeOutbox, ends: TransactionEnds, limits: Limits) -> Iterator[Selection]:
    """Claim until no row is left."""
    unfinished: PartialTransaction | None = None
    while (selection := select_knowing(outbox, ends, (), unfinished, limits)).heads:
        ends.drop(head.tx for head in selection.heads)
        last = selection.heads[-1]
        unfinished = PartialTransaction(last.tx, last.id, selection.end_id) if selection.end_id else None
        for id_ in ids(selection):
            del outbox.visible[id_]
        yield selection


def test_a_single_scan_of_the_outbox_serves_many_claims() -> None:
    """The size of the cache bounds the memory for a backlog of any size."""
    outbox = outbox_of(*(row(n, f"t{n // 2}", None) for n in range(2, 2_002)))
    claims = list(published_of(outbox, TransactionEnds(250), Limits(50, 10_000)))
    assert [id_ for claim in claims for id_ in ids(claim)] == list(range(2, 2_002))
    assert len(claims) == 2_000 / 50
    assert outbox.scans == 1_000 / 250


def test_small_transactions_behind_a_large_one_share_scans_and_claims() -> None:
    """Triggers write millions of rows for a statement, while other transactions commit."""
    small = [row(n, f"t{n}", None) for n in range(10, 2_000, 10)]
    large = [row(n, "large", None) for n in range(1, 2_001) if n % 10]
    outbox = outbox_of(*small, *large, row(2_001, "large", None))
    claims = list(published_of(outbox, TransactionEnds(), Limits(50, 10_000)))
    assert [id_ for claim in claims for id_ in ids(claim)] == [head.id for head in (*small, *large)] + [2_001]
    assert len(claims) < 2_001 / 50 + 20
    assert outbox.scans == 1


def test_rows_deleted_since_the_scan_are_skipped() -> None:
    """The rows were parked, or deleted by hand."""
    outbox = outbox_of(*(row(n, "cab"[n % 3], None) for n in range(1, 13)))
    ends = TransactionEnds()
    assert ids(select_knowing(outbox, ends, (), None, Limits(2, 100))) == [1, 4]
    outbox.visible = {id_: head for id_, head in outbox.visible.items() if head.tx != "a"}
    assert ids(select_knowing(outbox, ends, (), None, Limits(2, 100))) == [2, 5]
