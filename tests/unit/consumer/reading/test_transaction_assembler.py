"""The assembler holds events until the END of their transaction has come and counts them."""

from __future__ import annotations

import math

import pytest

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Position
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.reading import partial_transaction
from rowcast.consumer.reading.transaction_assembler import End, TransactionAssembler
from rowcast.shared.errors import DataError
from support.kafka_source import column, shape

LAYOUTS = {name: RowLayout(shape(name, column("n")), ("id", "n")) for name in "ab"}
END_PARTITION = ("shop.transaction", 0)


def change(table: str, lsn: int, transaction: str | None, offset: int = 0) -> Change:
    return Change(LAYOUTS[table], b'{"id":1}', b"{}", lsn, transaction, 0, (table, 0), offset)


def assembler(*changes: Change, excluded: str = "") -> TransactionAssembler:
    new = TransactionAssembler(lambda table: table != excluded)
    for one in changes:
        new.add(one)
    return new


def add_end(assembler: TransactionAssembler, id: str, lsn: int, offset: int = 0, **counts: int) -> None:
    tables = {f"public.{name}": count for name, count in counts.items()}
    assembler.add_end(End(lsn, id, 0, tables, offset), END_PARTITION)


def test_a_transaction_is_complete_when_every_table_has_its_events() -> None:
    found = assembler(change("a", 1, "7"))
    add_end(found, "7", 5, a=1, b=1)
    assert found.pop_complete(math.inf) == []
    assert found.missing_counts() == {"public.b": 1}
    found.add(change("b", 2, "7", offset=4))
    [transaction] = found.pop_complete(math.inf)
    assert (transaction.id, transaction.lsn, len(transaction.changes)) == ("7", 5, 2)
    assert transaction.positions == {("a", 0): Position(1, 1), ("b", 0): Position(5, 2), END_PARTITION: Position(1, 5)}
    assert (found.pending_events, found.pending_ends) == (0, 0)


def test_transactions_come_in_the_order_of_their_ends() -> None:
    found = assembler(change("a", 4, "8"), change("b", 1, "7"))
    add_end(found, "8", 6, a=1)
    add_end(found, "7", 3, b=1)
    assert [t.id for t in found.pop_complete(math.inf)] == ["7", "8"]


def test_the_first_incomplete_transaction_holds_up_the_later_ones() -> None:
    found = assembler(change("a", 4, "8"))
    add_end(found, "7", 3, b=1)
    add_end(found, "8", 6, a=1)
    assert found.pop_complete(math.inf) == []
    assert found.first_end is not None
    assert found.first_end.id == "7"
    assert found.oldest_transaction() == "8"


def test_tables_outside_the_replica_are_not_counted() -> None:
    found = assembler(change("a", 1, "7"), excluded="public.b")
    add_end(found, "7", 5, a=1, b=3)
    assert len(found.pop_complete(math.inf)) == 1


def test_more_events_than_the_end_counts_are_an_error() -> None:
    found = assembler(change("a", 1, "7"), change("a", 2, "7"))
    add_end(found, "7", 5, a=1)
    with pytest.raises(DataError, match=r"transaction 7: 2 events were read, but its END \(lsn 5\) counts 1"):
        found.pop_complete(math.inf)


def test_a_transaction_without_end_stops_the_transactions_that_pass() -> None:
    found = assembler(change("a", 1, "6"), change("a", 4, "7", offset=3), change("b", 7, "8"))
    add_end(found, "6", 2, a=1)
    add_end(found, "8", 9, b=1)
    assert [t.id for t in found.pop_complete(math.inf)] == ["6"]
    with pytest.raises(DataError, match=r"transaction 7 has no END, but .* was read \(8, lsn 9\)\..*offset 3") as error:
        found.pop_complete(math.inf)
    assert error.value.skip == "7"
    waiting = found.waiting_event()
    assert waiting is not None
    assert waiting.lsn == 4
    add_end(found, "7", 5, a=1)
    assert [t.id for t in found.pop_complete(math.inf)] == ["7", "8"]
    assert found.waiting_event() is None


def test_a_skipped_transaction_without_end_gives_its_positions_to_the_next() -> None:
    found = TransactionAssembler(lambda _: True, {"7"})
    for one in (change("a", 4, "7", offset=3), change("b", 5, "7", offset=1), change("b", 7, "8", offset=2)):
        found.add(one)
    assert found.pending_events == 1
    add_end(found, "8", 9, b=2)
    assert found.pop_complete(math.inf) == []
    found.add(change("b", 8, "8", offset=3))
    [transaction] = found.pop_complete(math.inf)
    assert [c.lsn for c in transaction.changes] == [7, 8]
    assert transaction.positions == {("a", 0): Position(4, 4), ("b", 0): Position(4, 8), END_PARTITION: Position(1, 9)}


def test_a_skipped_transaction_is_complete_without_changes() -> None:
    found = TransactionAssembler(lambda _: True, {"7"})
    found.add(change("a", 4, "7", offset=3))
    add_end(found, "7", 6, a=1)
    [transaction] = found.pop_complete(math.inf)
    assert (transaction.changes, transaction.positions[("a", 0)]) == ([], Position(4, 4))


@pytest.mark.parametrize("counted", [0, 3])
def test_a_skipped_transaction_may_have_a_wrong_count(counted: int) -> None:
    found = TransactionAssembler(lambda _: True, {"7"})
    found.add(change("a", 4, "7"))
    add_end(found, "7", 6, a=counted)
    if counted:
        assert found.pop_complete(math.inf) == []
        assert found.complete_skipped()
    assert [t.changes for t in found.pop_complete(math.inf)] == [[]]
    add_end(found, "8", 9, a=1)
    assert not found.complete_skipped()


def test_an_event_left_out_is_counted() -> None:
    found = assembler(change("a", 1, "7"))
    found.leave_out(change("a", 2, "7", offset=8))
    add_end(found, "7", 5, a=2)
    assert found.missing_counts() == {}
    [transaction] = found.pop_complete(math.inf)
    assert ([c.lsn for c in transaction.changes], transaction.positions[("a", 0)]) == ([1], Position(9, 2))


def test_an_event_outside_any_transaction_waits_for_the_ends_before_it() -> None:
    found = assembler(change("a", 4, None))
    assert found.pop_complete(3) == []
    [single] = found.pop_complete(4)
    assert (single.id, single.lsn) == (None, 4)


def test_ends_without_anything_to_wait_for_are_dropped() -> None:
    found = assembler()
    for lsn, id in ((3, "7"), (6, "8"), (9, "9")):
        add_end(found, id, lsn, offset=lsn, a=1)
    assert found.drop_ends(3) == {END_PARTITION: Position(4, 3)}
    assert found.drop_ends(0, "8") == {END_PARTITION: Position(7, 6)}
    assert found.drop_ends(0) == {}
    assert found.pending_ends == 1


def test_abandoned_transactions_leave_the_later_ends() -> None:
    found = assembler(change("a", 5, "8"), change("b", 1, "7"))
    add_end(found, "7", 3, b=2)
    add_end(found, "8", 6, a=1)
    assert found.abandon_transactions() == {END_PARTITION: Position(1, 3)}
    assert (found.pending_events, found.pending_ends, found.oldest_transaction()) == (0, 1, None)


@pytest.mark.parametrize(("events", "size"), [(4, 1_000_000), (1_000, 100)])
def test_a_large_incomplete_transaction_goes_to_a_file_and_comes_back_whole(
    monkeypatch: pytest.MonkeyPatch, events: int, size: int
) -> None:
    monkeypatch.setattr(partial_transaction, "SPILL_EVENTS", events)
    monkeypatch.setattr(partial_transaction, "MIN_MEASURED", 1)
    monkeypatch.setattr(partial_transaction, "SPILL_BYTES", size)
    found = assembler()
    changes = [change("a" if n % 2 else "b", n, "7", n)._replace(after=b"%50d" % n) for n in range(1, 13)]
    for at, one in enumerate(changes):
        found.add(one)
        if at < 11:
            assert found.pop_complete(math.inf) == []
        if at == 9:
            add_end(found, "7", 20, a=6, b=6)
            assert found.missing_counts() == {"public.a": 1, "public.b": 1}
        if at == 10:
            found.add(change("a", 30, "8"))
    [transaction] = found.pop_complete(math.inf)
    assert isinstance(transaction.changes, SpilledChanges)
    assert list(transaction.changes) == changes
    assert transaction.positions[END_PARTITION].lsn == 20
    assert found.pending_events == 1


def test_a_transaction_that_comes_with_its_end_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_transaction, "SPILL_EVENTS", 2)
    monkeypatch.setattr(partial_transaction, "MIN_MEASURED", 1)
    found = assembler(*(change("a", n, "7", n) for n in range(1, 6)))
    add_end(found, "7", 9, a=5)
    [transaction] = found.pop_complete(math.inf)
    assert isinstance(transaction.changes, list)
