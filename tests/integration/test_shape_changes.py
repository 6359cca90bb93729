"""Migrations of a captured table, forth and back: what the outbox, the topics and a replica make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from integration.relay_threads import running_thread, wait_until
from integration.relay_topics import TopicMessage, read_topics
from replicas import NAME, Database, RunningWorker, settings_for, work_once
from rowcast.consumer.verify import verify
from rowcast.producer import Capture
from rowcast.producer.checks.mismatch import mismatch
from rowcast.producer.outbox import OutboxTables, outbox_tables
from rowcast.producer.relay import Relay
from rowcast.producer.relay.leader import Leader
from rowcast.producer.snapshots import Snapshots, State
from rowcast.producer.tables import CapturedTable
from rowcast.producer.triggers.installing import install
from rowcast.shared.config import RelaySettings, Settings
from rowcast.shared.databases import open_engine
from rowcast.shared.errors import DataError
from rowcast.shared.events import ChangeEvent
from rowcast.shared.shapes import TableShape
from servers import Broker


@dataclass(frozen=True)
class Model:
    """What an application's models say of the table ``item``; ``key``: of its columns."""

    columns: Mapping[str, Any]
    key: Sequence[str] = ("id",)

    def metadata(self, name: str = "item") -> sa.MetaData:
        metadata = sa.MetaData()
        columns = (
            sa.Column(column, type_, primary_key=column in self.key, nullable=column not in self.key)
            for column, type_ in self.columns.items()
        )
        sa.Table(name, metadata, *columns)
        sa.Table("tag", metadata, sa.Column("id", sa.Integer, primary_key=True))
        return metadata


FIRST = Model({"id": sa.Integer, "name": sa.String(20), "amount": sa.Integer})


@dataclass(frozen=True)
class Change:
    """A migration of ``FIRST``. ``renamed``: new names by old ones; ``rebuild``: what a replica cannot follow."""

    model: Model
    renamed: Mapping[str, str]
    rebuild: str = ""


CHANGES = {
    "added": Change(Model({**FIRST.columns, "colour": sa.String(20)}), {}),
    "dropped": Change(Model({"id": sa.Integer, "amount": sa.Integer}), {}),
    "renamed": Change(Model({"id": sa.Integer, "title": sa.String(20), "amount": sa.Integer}), {"name": "title"}),
    "retyped": Change(
        Model({**FIRST.columns, "amount": sa.String(20)}), {}, "column amount of table .* from int32 to string"
    ),
    "key changed": Change(Model(FIRST.columns, ("id", "name")), {}, r"from \(id\) to \(id, name\)"),
}


class World:
    """A primary, and the processes of the application in front of it, each with its own models."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.tables: OutboxTables = outbox_tables(sa.MetaData())
        self._engines: list[Engine] = []
        self.engine = self._open()
        metadata = FIRST.metadata()
        outbox_tables(metadata)
        metadata.create_all(self.engine)

    def _open(self) -> Engine:
        self._engines.append(open_engine(self.url, "primary", pooled=False))
        return self._engines[-1]

    def close(self) -> None:
        for engine in self._engines:
            engine.dispose()

    def process(self, model: Model) -> Process:
        """Starts one; it has not committed anything yet."""
        return Process(self._open(), model)

    def migrate(self, change: Change, *, back: bool = False) -> None:
        """As a migration does it that makes the table anew and copies its rows, on an engine without a capture."""
        before, after = (change.model, FIRST) if back else (FIRST, change.model)
        new_names = {new: old for old, new in change.renamed.items()} if back else change.renamed
        new, old = after.metadata("item_new").tables["item_new"], before.metadata().tables["item"]
        copied = [(new.c[new_names.get(c.name, c.name)], c) for c in old.c if new_names.get(c.name, c.name) in new.c]
        with self.engine.begin() as connection:
            new.create(connection)
            rows = sa.select(*(sa.cast(source, into.type) for into, source in copied))
            connection.execute(sa.insert(new).from_select([into for into, _ in copied], rows))
            old.drop(connection)
            connection.exec_driver_sql("ALTER TABLE item_new RENAME TO item")

    def newest(self) -> str:
        """The version that ``rowcast_shape`` says is the table's newest."""
        with self.engine.connect() as connection:
            shapes = Snapshots(self.tables).shapes(connection).values()
        return next(shape.version for shape in shapes if shape.name == "item")

    def created_ms(self) -> dict[str, int]:
        """By version."""
        row = self.tables.shape.c
        with self.engine.connect() as connection:
            found = connection.execute(sa.select(row.version, row.created_ms))
            return {version: at for version, at in found}  # noqa: C416  # rows are no pairs to mypy

    def messages(self) -> list[str]:
        """What ``rowcast check`` says of the tables."""
        with self.engine.connect() as connection:
            return [finding.message for finding in mismatch(connection, sa.inspect(connection))]

    def outbox_is_empty(self) -> bool:
        with self.engine.connect() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(self.tables.outbox)).scalar_one() == 0


class Process:
    """One of the application's."""

    def __init__(self, engine: Engine, model: Model) -> None:
        self._engine = engine
        metadata = model.metadata()
        self.item = metadata.tables["item"]
        self._capture = Capture(metadata, source="shop")
        self._capture.install(engine)
        with engine.connect() as connection:
            schema = sa.inspect(connection).default_schema_name or "main"
        self.captured = CapturedTable(self.item, engine.dialect, schema)
        self.version = self.captured.version

    def write(self, id_: int) -> None:
        """Inserts a row with a value in every column."""
        values = {name: id_ if isinstance(c.type, sa.Integer) else f"{name} {id_}" for name, c in self.item.c.items()}
        with self._engine.begin() as connection:
            connection.execute(sa.insert(self.item), values)

    def tag(self, id_: int) -> None:
        """Changes the other table only."""
        with self._engine.begin() as connection:
            connection.execute(sa.insert(self.item.metadata.tables["tag"]), {"id": id_})

    @contextmanager
    def writing_in_vain(self, id_: int) -> Iterator[None]:
        """A transaction that has written all to the outbox is open for the length of the block, and rolled back."""
        with self._engine.connect() as connection:
            connection.execute(sa.insert(self.item), {"id": id_})
            self._capture.flush(connection)
            yield
            connection.rollback()


@pytest.fixture
def world(primary_url: str) -> Iterator[World]:
    world = World(primary_url)
    yield world
    world.close()


@pytest.fixture
def settings(kafka: Broker, source_name: str, primary_url: str, new_database: Callable[[str], str]) -> Settings:
    made = settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"), primary_url)
    return made.model_copy(update={"relay": RelaySettings(chunk_rows=3)})


on_sqlite = pytest.mark.parametrize("primary_url", ["sqlite"], indirect=True)


@dataclass(frozen=True)
class ShapeRecord:
    """A message of the schema topic."""

    version: str
    lsn: int
    shape: TableShape


def record(message: TopicMessage) -> ShapeRecord:
    assert message.value is not None
    value = orjson.loads(message.value)
    return ShapeRecord(value["version"], value["lsn"], TableShape.from_json(message.value))


def published(settings: Settings) -> tuple[list[ShapeRecord], list[ChangeEvent]]:
    """What the topics hold that is committed: the shapes in the order of their topic, the events in that of lsns."""
    found = read_topics(str(settings.kafka["bootstrap.servers"]), settings.source, "read_committed")
    shapes = [shape for shape in map(record, found.shapes) if shape.shape.name == "item"]
    return shapes, [e for e in found.stream if isinstance(e, ChangeEvent)]


def assert_shapes_come_first(shapes: list[ShapeRecord], events: list[ChangeEvent]) -> None:
    """Each event is laid out as the shape that it names, which is in force from a lsn that is not above its own."""
    since = {each.version: each for each in reversed(shapes)}
    for event in events:
        shape = since[str(event.shape_version)]
        assert shape.lsn <= event.lsn
        assert tuple(event.key) == shape.shape.primary_key
        if event.after is not None:
            assert list(event.after) == [column.name for column in shape.shape.columns]


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_of_a_table_is_published_before_the_first_event_that_has_it(
    world: World, settings: Settings, kind: str
) -> None:
    change = CHANGES[kind]
    relay = Relay(settings, world.engine)
    with running_thread(relay):
        old = world.process(FIRST)
        old.write(1)
        old.write(2)
        wait_until(world.outbox_is_empty)
        world.migrate(change)
        new = world.process(change.model)
        new.write(3)
        new.write(4)
        wait_until(world.outbox_is_empty)
    shapes, events = published(settings)
    assert [shape.version for shape in shapes] == [old.version, new.version]
    assert [event.shape_version for event in events] == [old.version] * 2 + [new.version] * 2
    assert_shapes_come_first(shapes, events)
    assert events[1].lsn < shapes[1].lsn <= events[2].lsn
    assert [event.key["id"] for event in events] == [1, 2, 3, 4]
    assert events[0].after == {"id": 1, "name": "name 1", "amount": 1}
    with world.engine.connect() as connection:
        (row,) = connection.execute(sa.select(new.item).where(new.item.c.id == 4)).mappings()
    assert events[3].after == dict(row)


def ask_for_a_snapshot(world: World) -> None:
    with world.engine.begin() as connection:
        Snapshots(world.tables).request(connection, ["item"], chunk_rows=2)


def snapshot_state(world: World) -> State:
    with world.engine.connect() as connection:
        (snapshot,) = Snapshots(world.tables).all(connection)
    return snapshot.state


@on_sqlite
@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_while_a_snapshot_is_half_way(
    world: World, settings: Settings, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = CHANGES[kind]
    old, new = world.process(FIRST), world.process(change.model)
    for n in range(1, 11):
        old.write(n)
    ask_for_a_snapshot(world)
    publish_chunk = Leader._publish_chunk
    chunks: list[int] = []

    def migrated_behind_the_second(leader: Leader) -> int:
        rows = publish_chunk(leader)
        if rows:
            chunks.append(rows)
            if len(chunks) == 2:
                world.migrate(change)
                new.write(11)
        return rows

    monkeypatch.setattr(Leader, "_publish_chunk", migrated_behind_the_second)
    Relay(settings, world.engine).run_once()
    shapes, events = published(settings)
    assert_shapes_come_first(shapes, events)
    read = [(event.key["id"], event.shape_version) for event in events if event.op == "r"]
    assert read[:4] == [(n, old.version) for n in range(1, 5)]
    if kind == "key changed":
        assert (snapshot_state(world), read[4:]) == (State.failed, [])
    else:
        assert snapshot_state(world) is State.done
        assert read[4:] == [(n, new.version) for n in range(5, 12)]
        # Nothing of the old shape is behind anything of the new one.
        assert [event.shape_version for event in events] == [old.version] * 14 + [new.version] * 8


@on_sqlite
@pytest.mark.parametrize("kind", CHANGES)
def test_a_replica_follows_a_change_or_says_that_it_must_be_rebuilt(
    world: World, settings: Settings, kind: str
) -> None:
    change = CHANGES[kind]
    world.process(FIRST).write(1)
    Relay(settings, world.engine).run_once()
    work_once(settings)
    world.migrate(change)
    world.process(change.model).write(2)
    Relay(settings, world.engine).run_once()
    if change.rebuild:
        with pytest.raises(DataError, match=f"{change.rebuild}.*Rebuild the replica"):
            work_once(settings)
        return
    work_once(settings)
    # What a migration itself did to the rows is no event.
    ask_for_a_snapshot(world)
    Relay(settings, world.engine).run_once()
    work_once(settings)
    assert verify(settings, NAME).equal


@on_sqlite
@pytest.mark.parametrize("kind", ["retyped", "key changed"])
def test_a_worker_that_is_running_does_not_go_on_past_what_it_cannot_follow(
    world: World, settings: Settings, kind: str
) -> None:
    change = CHANGES[kind]
    world.process(FIRST).write(1)
    Relay(settings, world.engine).run_once()
    worker = RunningWorker(settings)
    try:
        worker.until(lambda progress: progress.state == "consistent")
        world.migrate(change)
        world.process(change.model).write(2)
        Relay(settings, world.engine).run_once()
        wait_until(lambda: worker.error is not None)
    finally:
        worker.stop()
    with pytest.raises(DataError, match=f"{change.rebuild}.*Rebuild the replica"):
        raise worker.error


@on_sqlite
@pytest.mark.parametrize("kind", ["added", "dropped", "renamed", "retyped"])
def test_a_replica_that_is_made_after_a_change_reads_the_events_from_before_it(
    world: World, settings: Settings, kind: str
) -> None:
    change = CHANGES[kind]
    old = world.process(FIRST)
    old.write(1)
    old.write(2)
    Relay(settings, world.engine).run_once()
    world.migrate(change)
    world.process(change.model).write(3)
    Relay(settings, world.engine).run_once()
    work_once(settings)
    replica = Database(str(settings.replica(NAME).url.get_secret_value()))
    assert replica.rows("item", "id") == [(1,), (2,), (3,)]
    there = {column["name"] for column in sa.inspect(replica.engine).get_columns("item")}
    assert there == set(change.model.columns)
    replica.engine.dispose()


@pytest.mark.parametrize("kind", ["added", "dropped"])
def test_a_migration_that_is_rolled_back(world: World, settings: Settings, kind: str) -> None:
    """What was the newest shape is it again: for consumers, snapshots, and ``rowcast check``."""
    change = CHANGES[kind]
    with running_thread(Relay(settings, world.engine)):
        first = world.process(FIRST)
        first.write(1)
        wait_until(world.outbox_is_empty)
        world.migrate(change)
        migrated = world.process(change.model)
        migrated.write(2)
        wait_until(world.outbox_is_empty)
        assert world.newest() == migrated.version
        world.migrate(change, back=True)
        again = world.process(FIRST)
        again.write(3)
        again.write(4)
        assert world.newest() == first.version
        assert world.messages() == []
        ask_for_a_snapshot(world)
        wait_until(world.outbox_is_empty)
        wait_until(lambda: snapshot_state(world) not in (State.requested, State.running))
    assert snapshot_state(world) is State.done
    shapes, events = published(settings)
    assert [shape.version for shape in shapes] == [first.version, migrated.version, first.version]
    assert [event.shape_version for event in events[:4]] == [s.version for s in (first, migrated, first, first)]
    assert events[1].lsn < shapes[2].lsn <= events[2].lsn
    assert [(event.op, event.key["id"], event.shape_version) for event in events[4:]] == [
        ("r", id_, first.version) for id_ in (1, 2, 3, 4)
    ]
    work_once(settings)
    assert verify(settings, NAME).equal


@on_sqlite
def test_a_relay_that_starts_later_knows_the_newest_of_a_migration_that_was_rolled_back(
    world: World, settings: Settings
) -> None:
    change = CHANGES["dropped"]
    first = world.process(FIRST)
    first.write(1)
    world.migrate(change)
    migrated = world.process(change.model)
    migrated.write(2)
    world.migrate(change, back=True)
    world.process(FIRST).write(3)
    Relay(settings, world.engine).run_once()
    shapes, events = published(settings)
    # The first version at the start, the other one before its event, and the first again for compaction.
    assert [s.version for s in shapes] == [first.version, migrated.version, first.version]
    assert_shapes_come_first(shapes, events)


def test_old_and_new_processes_side_by_side_do_not_take_turns(world: World, settings: Settings) -> None:
    change = CHANGES["added"]
    with running_thread(Relay(settings, world.engine)):
        old = world.process(FIRST)
        old.write(1)
        old.write(2)
        wait_until(world.outbox_is_empty)
        world.migrate(change)
        new = world.process(change.model)
        for n in range(3, 13):
            (old, new)[n % 2].write(n)
            wait_until(world.outbox_is_empty)
        assert world.newest() == new.version
    shapes, events = published(settings)
    assert [s.version for s in shapes] == [old.version, new.version]
    assert len({event.shape_version for event in events[2:]}) == 2


def test_processes_that_start_side_by_side_take_one_turn_each(world: World) -> None:
    """One of the old ones is started anew while the new ones are starting."""
    change = CHANGES["added"]
    world.process(FIRST).write(1)
    world.migrate(change)
    new = [world.process(change.model) for _ in range(2)]
    old = [world.process(FIRST) for _ in range(2)]
    new[0].write(2)
    seen = [world.created_ms()]
    for n in range(3, 15):
        (*old, *new)[n % 4].write(n)
        seen.append(world.created_ms())
    changes = [name for before, after in pairwise(seen) for name in after if before[name] != after[name]]
    assert changes == [old[0].version, new[0].version]


@on_sqlite
def test_a_process_that_only_has_old_models_of_a_table_leaves_its_shape_alone(world: World) -> None:
    change = CHANGES["added"]
    world.process(FIRST).write(1)
    world.migrate(change)
    new = world.process(change.model)
    new.write(2)
    old = world.process(FIRST)
    for n in range(1, 4):
        old.tag(n)
        assert world.newest() == new.version
    old.write(3)
    assert world.newest() == old.version


@on_sqlite
def test_a_process_makes_its_shape_the_newest_even_if_its_first_transaction_is_rolled_back(world: World) -> None:
    change = CHANGES["added"]
    first = world.process(FIRST)
    first.write(1)
    world.migrate(change)
    world.process(change.model).write(2)
    world.migrate(change, back=True)
    again = world.process(FIRST)
    with again.writing_in_vain(3):
        pass
    assert world.newest() != first.version
    again.write(3)
    assert world.newest() == first.version


@pytest.mark.parametrize("primary_url", ["postgresql", "mariadb"], indirect=True)  # SQLite has one writer at a time.
def test_nobody_waits_for_a_long_transaction_that_makes_its_shape_the_newest(world: World) -> None:
    """But another process with its shape that has just begun, as it waits for one that writes a new shape."""
    change = CHANGES["added"]
    old = world.process(FIRST)
    old.write(1)
    old.write(2)
    world.migrate(change)
    new = world.process(change.model)
    new.write(3)
    with world.process(FIRST).writing_in_vain(4), ThreadPoolExecutor(1) as thread:
        for n, process in enumerate((old, new, world.process(change.model)), 5):
            thread.submit(process.write, n).result(30)


@on_sqlite
def test_the_newest_shape_is_the_newest_whatever_the_clock_says(world: World) -> None:
    """It was set back since the other shape was written."""
    change = CHANGES["added"]
    first = world.process(FIRST)
    first.write(1)
    world.migrate(change)
    with world.engine.begin() as connection:
        connection.execute(sa.update(world.tables.shape).values(created_ms=2**50))
    migrated = world.process(change.model)
    migrated.write(2)
    assert world.newest() == migrated.version
    world.migrate(change, back=True)
    world.process(FIRST).write(3)
    assert world.newest() == first.version


def test_triggers_that_are_installed_again_have_the_newest_shape(world: World) -> None:
    change = CHANGES["dropped"]
    old, new = world.process(FIRST), world.process(change.model)
    for process, back in ((old, False), (new, True), (old, None)):
        with world.engine.begin() as connection:
            install(connection, process.captured)
        assert world.newest() == process.version
        if back is not None:
            world.migrate(change, back=back)
