"""Random histories with refused rows, crashes and retries leave every row that no letter blocks as on the primary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import orjson
import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st

from rowcast.consumer.dead_letters.letters import Letter, to_letters
from rowcast.consumer.dead_letters.retry import retry
from rowcast.consumer.events.change import TRUNCATE_KEY, Change
from rowcast.consumer.events.dead_letter import LetterEvent, SetAside
from rowcast.consumer.events.position import Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.letter_rows import count_letters, read_letter_events
from rowcast.consumer.replica.positions import read_positions
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.errors import DataError, RetriableError
from support.kafka_source import column, shape

PARTITION = ("topic", 0)
ITEM = shape("item", column("n"))
CHILD = shape("child", column("item_id"), refers=[("item_id", "item")])
SMALL = 100

Row = tuple[str, int]
State = dict[Row, int]
"""The rows by table and key. The value is ``n`` of an item, and ``item_id`` of a child."""


class MemoryTopic:
    """Keep letters in memory. ``crashes``: for each write, whether the worker dies before or after it, or not."""

    def __init__(self, crashes: Sequence[str]) -> None:
        self._crashes = list(crashes)
        self.written: list[SetAside] = []

    def write(self, events: Sequence[SetAside]) -> list[LetterEvent]:
        crash = self._crashes.pop(0) if self._crashes else ""
        if crash == "before":
            raise RetriableError("the worker dies before the write")
        first = len(self.written)
        self.written += events
        if crash == "after":
            raise RetriableError("the worker dies after the write")
        return [LetterEvent(event, ("dlq", 0), first + place, 1) for place, event in enumerate(events)]


class World:
    """A primary in memory, and a replica in a file that refuses an ``n`` from 100 on."""

    def __init__(self, folder: str, unit: Literal["transaction", "event"], crashes: Sequence[str]) -> None:
        self.engine = sa.create_engine(f"sqlite:///{folder}/replica.db")
        self.unit = unit
        self.on_bad_row: Literal["stop", "dlq"] = "dlq"
        self.execute(f"CREATE TABLE item (id bigint PRIMARY KEY, n bigint CHECK (n < {SMALL}))")
        self.execute("CREATE TABLE child (id bigint PRIMARY KEY, item_id bigint REFERENCES item (id))")
        self.topic = MemoryTopic(crashes)
        self.layouts = RowLayouts()
        for one in (ITEM, CHILD):
            self.layouts.add(one.version, one)
        self.history: list[Transaction] = []
        self.changes: dict[int, Change] = {}
        self.primary: State = {}
        self._lsn = 0
        self.replica = self._open()
        self.replica.prepare()
        assert self.replica.become_consistent()

    def _open(self) -> Replica:
        settings = ReplicaSettings(url=str(self.engine.url), on_bad_row=self.on_bad_row, dlq_unit=self.unit)
        replica = Replica("shop", "copy", settings, self.layouts, dead_letters=self.topic)
        replica.take_over()
        return replica

    def close(self) -> None:
        self.replica.close()
        self.engine.dispose()

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def commit(self, wanted: Sequence[tuple[Row, int | None]]) -> None:
        """Commit a transaction of the wanted changes that the primary's foreign keys allow."""
        state = dict(self.primary)
        for row, value in wanted:
            if value is None:
                state.pop(row, None)
            elif row[0] == "item" or ("item", value) in state:
                state[row] = value
        if any(table == "child" and ("item", value) not in state for (table, _), value in state.items()):
            return
        rows = [row for row in state.keys() | self.primary.keys() if state.get(row) != self.primary.get(row)]
        changes = [self._change(row, state.get(row), is_new=row not in self.primary) for row in sorted(rows)]
        self._lsn += 1
        positions = {PARTITION: Position(self._lsn + 1, self._lsn)}
        self.history.append(Transaction(changes[0].transaction if changes else None, self._lsn, 1, changes, positions))
        self.primary = state

    def truncate_items(self) -> None:
        """Commit a truncate of the items."""
        self._lsn += 2
        change = self._change(("item", 0), None, is_new=False)._replace(key=TRUNCATE_KEY)
        self.changes[change.lsn] = change
        self._lsn += 1
        positions = {PARTITION: Position(self._lsn + 1, self._lsn)}
        self.history.append(Transaction(change.transaction, self._lsn, 1, [change], positions))
        self.primary = {row: value for row, value in self.primary.items() if row[0] != "item"}

    def _change(self, row: Row, value: int | None, *, is_new: bool) -> Change:
        table, id_ = row
        layout = self.layouts.find(f"public.{table}", (ITEM if table == "item" else CHILD).version)
        assert layout is not None
        name = "n" if table == "item" else "item_id"
        image = None if value is None else orjson.dumps({"id": id_, name: value})
        self._lsn += 1
        key = orjson.dumps({"id": id_})
        change = Change(
            layout,
            key,
            image,
            self._lsn,
            f"t{len(self.history)}",
            1,
            PARTITION,
            self._lsn,
            is_new and image is not None,
        )
        self.changes[self._lsn] = change
        return change

    def follow(self) -> None:
        """Apply the rest of the history in one run. A crashed worker starts again from the replica's positions."""
        while True:
            with self.engine.connect() as connection:
                applied = read_positions(connection, "shop").get(PARTITION, Position(0, 0)).lsn
            rest = [transaction for transaction in self.history if transaction.lsn > applied]
            if not rest:
                return
            try:
                self.replica.apply(Run(rest))
            except RetriableError:
                self.restart()

    def restart(self) -> None:
        self.replica.close()
        self.replica = self._open()
        self.replica.prepare()

    def letters(self) -> list[Letter]:
        with self.engine.connect() as connection:
            return to_letters(read_letter_events(connection, "shop"))

    def retry(self) -> None:
        """Retry all letters, as a command that takes the replica over. The worker starts again afterwards."""
        self.restart()
        letters = self.letters()
        result = retry(letters, letters, self._settle)
        assert {letter.id for letter in self.letters()} == {letter.id for letter, _ in result.left}
        self.restart()

    def _settle(self, letters: Sequence[Letter]) -> None:
        settled = [one for letter in letters for one in letter.events]
        changes = [self.changes[lsn] for lsn in sorted(one.event.offset for one in settled)]
        self.replica.settle(Transaction(letters[0].id, changes[-1].lsn, 0, changes, settled=settled))

    def stored(self) -> State:
        with self.engine.connect() as connection:
            rows: State = {}
            for table, name in (("item", "n"), ("child", "item_id")):
                found = connection.exec_driver_sql(f"SELECT id, {name} FROM {table}")
                rows |= {(table, row.id): row[1] for row in found}
        return rows

    def check(self) -> None:
        """Compare the replica with the history without the letters, in which each transaction is whole."""
        waiting = {one.event.offset for letter in self.letters() for one in letter.events}
        expected: State = {}
        blocked: set[Row] = set()
        for transaction in self.history:
            lsns = {change.lsn for change in transaction.changes}
            if self.unit == "transaction":
                assert lsns <= waiting or not lsns & waiting
            for change in transaction.changes:
                row = (change.layout.table.removeprefix("public."), orjson.loads(change.key)["id"])
                if change.lsn in waiting:
                    blocked.add(row)
                    continue
                # Nothing newer than a letter is applied to its row.
                assert row not in blocked
                if change.after is None:
                    expected.pop(row, None)
                else:
                    image = orjson.loads(change.after)
                    expected[row] = image["n"] if row[0] == "item" else image["item_id"]
        stored = self.stored()
        assert stored == expected
        free = (stored.keys() | self.primary.keys()) - blocked
        assert {row: stored.get(row) for row in free} == {row: self.primary.get(row) for row in free}
        with self.engine.connect() as connection:
            counts = count_letters(connection, "shop")
        assert counts.events == len(waiting)


changes_of_rows = st.one_of(
    st.tuples(st.tuples(st.just("item"), st.integers(1, 4)), st.sampled_from([None, 1, 2, SMALL, SMALL + 1])),
    st.tuples(st.tuples(st.just("child"), st.integers(1, 3)), st.sampled_from([None, 1, 2, 3, 4])),
)
steps = st.lists(
    st.one_of(st.lists(changes_of_rows, min_size=1, max_size=3), st.sampled_from(["follow", "retry"])),
    min_size=1,
    max_size=10,
)
crashes = st.lists(st.sampled_from(["", "", "before", "after"]), max_size=6)


@pytest.mark.campaign
@pytest.mark.parametrize("unit", ["transaction", "event"])
@given(steps=steps, crashes=crashes)
# A transaction that follows a letter has another row too, and a later one has only this row.
@example(
    steps=[
        [(("item", 1), 1), (("item", 2), 1)], [(("item", 1), SMALL)], "follow",
        [(("item", 1), 2), (("item", 2), 2)], "follow", [(("item", 2), 1)], "retry",
    ],
    crashes=[],
)  # fmt: skip
def test_every_row_without_a_letter_is_as_on_the_primary(
    unit: Literal["transaction", "event"], steps: Sequence[Any], crashes: Sequence[str]
) -> None:
    with TemporaryDirectory() as folder:
        world = World(folder, unit, crashes)
        try:
            for step in steps:
                if step == "follow":
                    world.follow()
                    world.check()
                elif step == "retry":
                    world.retry()
                else:
                    world.commit(step)
            world.follow()
            world.check()
            _accept_everything(world)
            world.retry()
            assert world.letters() == []
            assert world.stored() == world.primary
        finally:
            world.close()


def _accept_everything(world: World) -> None:
    statement = f"UPDATE sqlite_master SET sql = replace(sql, 'n < {SMALL}', 'n < 1000') WHERE name = 'item'"
    world.execute("PRAGMA writable_schema = ON", statement)


def test_a_crash_after_the_write_shows_a_letter_once(tmp_path: Path) -> None:
    world = World(str(tmp_path), "transaction", ["after", "after"])
    world.commit([(("item", 1), SMALL), (("item", 2), 1)])
    world.follow()
    assert len(world.topic.written) == 3 * 2
    [letter] = world.letters()
    # The record names the last copy.
    assert [one.place_offset for one in letter.events] == [4, 5]
    world.close()


@pytest.mark.parametrize("unit", ["transaction", "event"])
def test_a_truncate_concerns_all_rows_of_its_table(tmp_path: Path, unit: Literal["transaction", "event"]) -> None:
    world = World(str(tmp_path), unit, [])
    world.commit([(("item", 1), 1), (("item", 2), 1)])
    world.follow()
    world.commit([(("item", 1), SMALL)])
    world.follow()
    world.truncate_items()
    world.commit([(("item", 3), 1)])
    world.follow()
    assert world.stored() == {("item", 1): 1, ("item", 2): 1}
    assert len(world.letters()) == 3
    world.retry()
    assert world.letters() == []
    assert world.stored() == world.primary == {("item", 3): 1}
    world.close()


def test_letters_are_followed_when_the_next_bad_row_stops_the_worker(tmp_path: Path) -> None:
    world = World(str(tmp_path), "transaction", [])
    world.commit([(("item", 1), SMALL)])
    world.follow()
    world.on_bad_row = "stop"
    world.restart()
    world.commit([(("item", 1), 1)])
    world.commit([(("item", 2), 1)])
    world.commit([(("item", 2), SMALL)])
    with pytest.raises(DataError, match="CHECK constraint"):
        world.follow()
    assert [len(letter.events) for letter in world.letters()] == [1, 1]
    assert world.stored() == {("item", 2): 1}
    world.close()
