"""Conflicting changes of a topic are held back, and are not sent again with every run."""

from __future__ import annotations

import pytest

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Position
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.replica import held_back
from rowcast.consumer.replica.held_back import HeldBack
from rowcast.consumer.replica.refusals import ConflictError
from rowcast.shared.errors import RetriableError
from support.kafka_source import column, shape

PARENT = RowLayout(shape("z_parent"), ("id",))
CHILD = RowLayout(shape("child", column("parent_id"), refers=[("parent_id", "z_parent")]), ("id", "parent_id"))
ORDER = ["public.z_parent", "public.child"]


class Database:
    """Refuse children whose parent is missing, all or nothing, and count the rows."""

    def __init__(self) -> None:
        self.parents: set[bytes] = set()
        self.children: list[bytes] = []
        self.positions: dict[tuple[str, int], Position] = {}
        self.sent = 0
        self.is_away = False

    def apply(self, run: Run) -> None:
        if self.is_away:
            raise RetriableError("away")
        changes = [change for transaction in run.transactions for change in transaction.changes]
        self.sent += len(changes)
        parents = self.parents | {c.after for c in changes if c.layout is PARENT and c.after}
        if any(c.layout is CHILD and c.after not in parents for c in changes):
            raise ConflictError("no parent")
        self.parents = parents
        self.children += [c.key for c in changes if c.layout is CHILD]
        self.positions |= run.positions()


class World:
    def __init__(self) -> None:
        self.database = Database()
        self.held = HeldBack()
        self.lsn = 0

    def load(self, *rows: tuple[RowLayout, str]) -> None:
        """Load one run by key. The image of each row is the name of its parent, or its own name."""
        changes: list[Change] = []
        transaction = Transaction("1", 0, 0, changes, by_key=True)
        for layout, parent in rows:
            self.lsn += 1
            partition = (layout.table, 0)
            change = Change(layout, b"%d" % self.lsn, parent.encode(), self.lsn, None, 0, partition, self.lsn)
            changes.append(change)
            transaction.positions[partition] = Position(self.lsn + 1, self.lsn)
            transaction.lsn = self.lsn
        self.held.apply(Run([transaction]), self.database.apply, lambda: ORDER)


@pytest.fixture(params=[20_000, 3], ids=["in memory", "in files"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(held_back, "_MOST_EVENTS", request.param)
    return World()


def test_children_whose_parent_comes_last_are_sent_twice_at_most(world: World) -> None:
    for _ in range(10):
        world.load(*[(CHILD, "a")] * 100)
    assert world.held
    world.load((PARENT, "a"))
    assert not world.held
    assert len(world.database.children) == 1_000
    assert world.database.sent < 2 * 1_001


def test_the_rows_sent_grow_with_the_events_while_each_run_has_a_parent_and_a_child_of_a_later_one(
    world: World,
) -> None:
    runs = 300
    for number in range(runs):
        world.load((PARENT, str(number)), (CHILD, str(number + 1)))
    world.load((PARENT, str(runs)))
    if world.held:
        world.database.apply(Run([world.held.merged()]))
    assert len(world.database.children) == runs
    assert world.database.sent < 5 * 2 * runs


def test_other_tables_load_on_and_positions_stay_before_the_held_changes(world: World) -> None:
    world.load((CHILD, "b"), (PARENT, "a"))
    assert world.database.parents == {b"a"}
    assert world.database.positions == {("public.z_parent", 0): Position(3, 2)}
    # The children of the first run come before the later ones of their topic.
    world.load((CHILD, "a"))
    assert world.database.children == []
    world.load((PARENT, "b"))
    assert world.database.children == [b"1", b"3"]
    assert world.database.positions["public.child", 0] == Position(4, 3)


def test_a_run_that_is_applied_again_after_a_fault_holds_nothing_twice(world: World) -> None:
    world.load((CHILD, "b"))
    world.database.is_away = True
    lsn = world.lsn
    with pytest.raises(RetriableError):
        world.load((CHILD, "b"), (PARENT, "a"))
    world.database.is_away = False
    world.lsn = lsn
    world.load((CHILD, "b"), (PARENT, "a"))
    assert [c.key for c in world.held.merged().changes] == [b"1", b"2"]


@pytest.mark.parametrize("limit", ["_MOST_EVENTS", "_MOST_BYTES"])
def test_many_held_changes_are_in_a_few_files(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_back, limit, 10)
    world = World()
    for _ in range(100):
        world.load(*[(CHILD, "a")] * 10)
    held = world.held.before(Run([])).transactions
    assert [type(transaction.changes) for transaction in held] == [SpilledChanges]
    files = [t for topic in world.held._topics.values() for t in topic.transactions]
    assert len(files) <= 8
    assert sum(len(t.changes) for t in files if not isinstance(t.changes, SpilledChanges)) < 10
    world.load((PARENT, "a"))
    assert not world.held
    assert world.database.children == [b"%d" % n for n in range(1, 1_001)]
