"""Transactions are returned whole and in the order of their ENDs, whatever a connector repeats."""

from __future__ import annotations

from itertools import count

from rowcast.consumer.debezium.assembly import SPILL_EVENTS, Assembly
from rowcast.consumer.debezium.event_reader import TableEvent
from rowcast.consumer.debezium.log_place import LogPlace
from rowcast.consumer.debezium.transaction_record import Begin, End
from rowcast.consumer.events.change import Change
from rowcast.consumer.events.row_layout import RowLayout
from support.kafka_source import column, shape

ENDS = ("shop.transaction", 0)
LAYOUTS = {name: RowLayout(shape(name, column("n")), ("id", "n")) for name in ("a", "b")}


class World:
    """Events and ENDs with growing offsets. ``a`` and ``b`` are tables, and topics with one partition."""

    def __init__(self) -> None:
        numbers = count(1)
        self.assembly = Assembly(lambda table: table != "public.left_out", lambda: next(numbers))
        self._offsets = {"a": count(), "b": count()}
        self._ends = count()

    def event(self, tx: str | None, table: str, lsn: int, order: int = 1, id: int | None = None) -> TableEvent:
        key = b'{"id":%d}' % (lsn if id is None else id)
        change = Change(LAYOUTS[table], key, b"{}", 0, tx, 1, (table, 0), next(self._offsets[table]))
        return TableEvent(change, LogPlace("", 0, lsn), order)

    def add(self, tx: str | None, table: str, lsn: int, order: int = 1) -> bool:
        return self.assembly.add(self.event(tx, table, lsn, order))

    def end(self, tx: str, lsn: int = 0, **counts: int) -> End:
        end = End(tx, f"{tx}:{lsn}", 1, {f"public.{table}": n for table, n in counts.items()})
        self.assembly.add_end(end, next(self._ends))
        return end

    def popped(self) -> list[tuple[str | None, list[bytes]]]:
        return [(t.id, [change.key for change in t.changes]) for t in self.assembly.pop(ENDS)]


def test_a_transaction_waits_for_all_events_that_its_end_counts() -> None:
    world = World()
    world.add("7", "a", 10)
    world.end("7", 30, a=1, b=1, left_out=5)
    assert world.popped() == []
    assert world.assembly.missing() == {"public.b": 1}
    world.add("8", "b", 15)
    assert world.popped() == []
    world.add("7", "b", 20, order=2)
    assert world.popped() == [("7:30", [b'{"id":10}', b'{"id":20}'])]
    # The event of the next transaction must be read again after a restart.
    assert world.assembly.first_held(("b", 0)) == 0
    assert world.assembly.first_held(("a", 0)) is None


def test_changes_are_in_the_order_of_the_log_with_growing_lsns() -> None:
    world = World()
    world.add("7", "b", 20, order=2)
    world.add("7", "a", 10)
    world.add("7", "a", 30, order=3)
    world.end("7", a=2, b=1)
    [transaction] = world.assembly.pop(ENDS)
    lsns = [change.lsn for change in transaction.changes]
    assert [change.key for change in transaction.changes] == [b'{"id":10}', b'{"id":20}', b'{"id":30}']
    assert lsns == sorted(set(lsns))


def test_repeated_events_and_ends_have_no_effect() -> None:
    world = World()
    for _ in range(2):
        world.add("7", "a", 10)
        world.add("7", "a", 10, order=2)
    world.end("7", 30, a=2)
    assert [len(keys) for _, keys in world.popped()] == [2]
    world.add("8", "a", 40)
    world.end("8", 50, a=1)
    assert len(world.popped()) == 1
    assert not world.add("7", "a", 10)
    world.end("7", 30, a=2)
    assert world.popped() == [("7:30", [])]
    assert world.assembly.held_events == 0


def test_a_transaction_applied_by_an_earlier_worker_is_left_out() -> None:
    world = World()
    world.add("7", "a", 10)
    world.assembly.note_applied(End("7", "7:30", 1, {}))
    assert world.assembly.held_events == 0
    assert world.assembly.first_held(("a", 0)) is None


def test_a_connector_that_counts_again_after_a_restart_loses_no_event() -> None:
    """The END counts only the events after the restart, as many as were read before it (debezium/dbz#633)."""
    world = World()
    world.assembly.add_begin(Begin("7"))
    world.add("7", "a", 10, order=1)
    world.add("7", "a", 20, order=2)
    world.assembly.add_begin(Begin("7"))
    world.end("7", 50, a=2)
    assert world.popped() == []
    world.add("7", "a", 30, order=1)
    world.add("7", "a", 40, order=2)
    assert world.popped() == []
    world.assembly.give_up_missing(1)
    assert [len(keys) for _, keys in world.popped()] == [4]


def test_a_row_of_a_snapshot_comes_after_the_transactions_before_it() -> None:
    world = World()
    assert world.add(None, "b", 0)
    world.add("7", "a", 10)
    assert not world.add(None, "a", 0)
    world.end("7", a=1)
    assert world.popped() == [("7:0", [b'{"id":10}']), (None, [b'{"id":0}'])]


def test_a_row_of_a_snapshot_does_not_wait_for_a_transaction_applied_before() -> None:
    world = World()
    world.add("7", "a", 10)
    assert not world.add(None, "a", 0)
    world.assembly.note_applied(End("7", "7:30", 1, {}))
    assert world.popped() == [(None, [b'{"id":0}'])]


def test_only_the_transactions_whose_events_cannot_come_are_given_up() -> None:
    world = World()
    world.add("7", "a", 10)
    world.end("7", a=2)
    world.end("8", a=1)
    world.assembly.give_up_missing(1)
    assert world.popped() == [("7:0", [b'{"id":10}'])]
    world.add("8", "a", 20)
    assert world.popped() == [("8:0", [b'{"id":20}'])]


def test_a_transaction_that_began_by_key_is_finished_by_key() -> None:
    world = World()
    assert world.assembly.count(world.event("7", "a", 10))
    assert world.assembly.has_straddling
    assert world.add("7", "a", 20, order=2)
    assert not world.add("7", "a", 20, order=2)
    world.assembly.add_begin(Begin("7"))
    assert world.assembly.drop_straddling() == []
    world.end("7", a=2)
    assert world.popped() == [("7:0", [])]
    assert not world.assembly.has_straddling


def test_a_transaction_applied_by_key_whose_end_was_deleted_is_forgotten() -> None:
    world = World()
    world.assembly.count(world.event("7", "a", 10))
    assert world.assembly.drop_straddling() == ["7"]
    assert not world.assembly.has_straddling


def test_a_large_transaction_waits_in_a_file() -> None:
    world = World()
    for number in range(SPILL_EVENTS + 1):
        world.add("7", "a" if number % 2 else "b", number, order=number + 1)
    world.end("7", a=SPILL_EVENTS // 2, b=SPILL_EVENTS // 2 + 1)
    [transaction] = world.assembly.pop(ENDS)
    assert len(transaction.changes) == SPILL_EVENTS + 1
    assert [change.lsn for change in transaction.changes] == list(range(SPILL_EVENTS + 1))
    assert world.assembly.held_events == 0


def test_an_event_without_effect_counts_in_its_transaction() -> None:
    world = World()
    world.assembly.leave_out(world.event("7", "a", 10))
    world.add("7", "b", 20, order=2)
    world.end("7", 30, a=1, b=1)
    assert world.popped() == [("7:30", [b'{"id":20}'])]


def test_rows_of_a_binary_log_are_counted_from_0_in_each_statement() -> None:
    world = World()
    for order, (position, row) in enumerate([(100, 0), (100, 1), (200, 0), (200, 0)], 1):
        event = world.event("7", "a", order)
        assert not world.assembly.add(
            event._replace(place=LogPlace("server", position, row, counts_rows=True), order=order)
        )
    other = world.event("7", "b", 9)
    world.assembly.add(other._replace(place=LogPlace("server", 150, 0, counts_rows=True), order=5))
    world.end("7", a=4, b=1)
    assert world.popped() == [("7:0", [b'{"id":%d}' % id for id in (1, 2, 9, 3, 4)])]
