"""Test migrations of a captured table and their rollbacks, in the outbox, the topics and a replica."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from fixtures.databases import NewDatabase
from rowcast.consumer.verification.comparison import verify
from rowcast.producer import Capture
from rowcast.producer.checks.model_drift import model_drift
from rowcast.producer.outbox.schema import OutboxTables, outbox_tables
from rowcast.producer.outbox.snapshot_requests import SnapshotRequests, SnapshotState
from rowcast.producer.relay import Relay
from rowcast.producer.relay.leader.work_loop import Leader
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.triggers.install import install
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import ChangeEvent
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_document import parse_shape
from rowcast.shared.tables.shape_store import newest_shapes
from servers import Broker
from support.relay.threads import running_thread, wait_until
from support.relay.topic_reader import TopicMessage, read_topics
from support.worker_runs import NAME, Database, RunningWorker, settings_for, work_once

pytestmark = pytest.mark.shared_dialect


@dataclass(frozen=True)
class Model:
    """Describe the table ``item`` in an application's models. ``key``: the columns of its key."""

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
    """Describe a migration of ``FIRST``.

    ``renamed``: new names by old names. ``rebuild``: the change that a replica cannot follow.
    """

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
    """Run a primary and the processes of its application, with different models in each process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.tables: OutboxTables = outbox_tables(sa.MetaData())
        self._engines: list[Engine] = []
        self.engine = self._open()
        # The tests look at the outbox many times a second, too often for a new connection each time.
        self._watching = self._open(pooled=True)
        metadata = FIRST.metadata()
        outbox_tables(metadata)
        metadata.create_all(self.engine)

    def _open(self, *, pooled: bool = False) -> Engine:
        self._engines.append(open_engine(self.url, "primary", pooled=pooled))
        return self._engines[-1]

    def close(self) -> None:
        for engine in self._engines:
            engine.dispose()

    def process(self, model: Model) -> Process:
        """Start a process without any commit yet."""
        return Process(self._open(), model)

    def migrate(self, change: Change, *, back: bool = False) -> None:
        """Migrate by creating a new table and copying the rows, on an engine without a capture."""
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
        """Return the table's newest version according to ``rowcast_shape``."""
        with self.engine.connect() as connection:
            shapes = newest_shapes(connection).values()
        return next(shape.version for shape in shapes if shape.name == "item")

    def created_ms(self) -> dict[str, int]:
        """Return the creation time of each version."""
        row = self.tables.shape.c
        with self.engine.connect() as connection:
            found = connection.execute(sa.select(row.version, row.created_ms))
            return {version: at for version, at in found}  # noqa: C416  # rows are no pairs to mypy

    def messages(self) -> list[str]:
        """Return the findings of ``rowcast check`` about the tables."""
        with self.engine.connect() as connection:
            return [finding.message for finding in model_drift(connection, sa.inspect(connection))]

    def outbox_is_empty(self) -> bool:
        with self._watching.connect() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(self.tables.outbox)).scalar_one() == 0


class Process:
    """Stand for a process of the application."""

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
        """Insert a row with a value in every column."""
        values = {name: id_ if isinstance(c.type, sa.Integer) else f"{name} {id_}" for name, c in self.item.c.items()}
        with self._engine.begin() as connection:
            connection.execute(sa.insert(self.item), values)

    def tag(self, id_: int) -> None:
        """Insert a row into the other table only."""
        with self._engine.begin() as connection:
            connection.execute(sa.insert(self.item.metadata.tables["tag"]), {"id": id_})

    @contextmanager
    def writing_in_vain(self, id_: int) -> Iterator[None]:
        """Keep a transaction open for the block after the drain has written to the outbox, and roll it back."""
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
def settings(kafka: Broker, source_name: str, primary_url: str, new_database: NewDatabase) -> Settings:
    made = settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"), primary_url)
    return made.model_copy(update={"relay": RelaySettings(chunk_rows=3, poll_max_ms=10)})


on_sqlite = pytest.mark.parametrize("primary_url", ["sqlite"], indirect=True)


@dataclass(frozen=True)
class ShapeRecord:
    """Hold a message of the schema topic."""

    version: str
    lsn: int
    shape: TableShape


def record(message: TopicMessage) -> ShapeRecord:
    assert message.value is not None
    value = orjson.loads(message.value)
    return ShapeRecord(value["version"], value["lsn"], parse_shape(message.value))


def published(settings: Settings) -> tuple[list[ShapeRecord], list[ChangeEvent]]:
    """Return the committed shapes in the order of their topic, and the committed events in the order of lsns."""
    found = read_topics(str(settings.kafka["bootstrap.servers"]), settings.source, "read_committed")
    shapes = [shape for shape in map(record, found.shapes) if shape.shape.name == "item"]
    return shapes, [e for e in found.stream if isinstance(e, ChangeEvent)]


def assert_shapes_come_first(shapes: list[ShapeRecord], events: list[ChangeEvent]) -> None:
    """Check that each event has the columns of its shape, and that the lsn of the shape is not above the event's."""
    since = {each.version: each for each in reversed(shapes)}
    for event in events:
        shape = since[str(event.shape_version)]
        assert shape.lsn <= event.lsn
        assert tuple(event.key) == shape.shape.primary_key
        if event.after is not None:
            assert list(event.after) == [column.name for column in shape.shape.columns]


@pytest.mark.parametrize("primary_url", ["postgresql", "sqlite"], indirect=True)
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
        SnapshotRequests(world.tables).request(connection, ["item"], chunk_rows=2)


def snapshot_state(world: World) -> SnapshotState:
    with world.engine.connect() as connection:
        (snapshot,) = SnapshotRequests(world.tables).all(connection)
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
        assert (snapshot_state(world), read[4:]) == (SnapshotState.failed, [])
    else:
        assert snapshot_state(world) is SnapshotState.done
        assert read[4:] == [(n, new.version) for n in range(5, 12)]
        # No event of the old shape follows an event of the new shape.
        assert [event.shape_version for event in events] == [old.version] * 14 + [new.version] * 8


def assert_has_rows(replica: Database, model: Model) -> None:
    assert replica.rows("item", "id") == [(1,), (2,)]
    there = {column["name"] for column in sa.inspect(replica.engine).get_columns("item")}
    assert there == set(model.columns)
    replica.engine.dispose()


@on_sqlite
@pytest.mark.parametrize("kind", CHANGES)
def test_a_replica_follows_a_change_or_says_that_it_must_be_rebuilt(
    world: World, settings: Settings, new_database: NewDatabase, kind: str
) -> None:
    """A replica that is made after the change also reads the events from before the change."""
    change = CHANGES[kind]
    world.process(FIRST).write(1)
    Relay(settings, world.engine).run_once()
    work_once(settings)
    world.migrate(change)
    world.process(change.model).write(2)
    Relay(settings, world.engine).run_once()
    if kind != "key changed":
        later = new_database("sqlite")
        work_once(settings.model_copy(update={"replicas": {NAME: ReplicaSettings(url=later)}}))
        assert_has_rows(Database(later), change.model)
    if change.rebuild:
        with pytest.raises(DataError, match=f"{change.rebuild}.*Rebuild the replica"):
            work_once(settings)
        return
    work_once(settings)
    # Changes that the migration made to rows are not events.
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
    assert worker.error is not None
    with pytest.raises(DataError, match=f"{change.rebuild}.*Rebuild the replica"):
        raise worker.error


@pytest.mark.parametrize("kind", ["added", "dropped"])
def test_a_migration_that_is_rolled_back(world: World, settings: Settings, kind: str) -> None:
    """A former shape becomes the newest again for consumers, snapshots, and ``rowcast check``."""
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
        wait_until(lambda: snapshot_state(world) not in (SnapshotState.requested, SnapshotState.running))
    assert snapshot_state(world) is SnapshotState.done
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
    # The first version comes at the start, the second before its event, and the first again because of compaction.
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
        for n in range(3, 9):
            (old, new)[n % 2].write(n)
            wait_until(world.outbox_is_empty)
        assert world.newest() == new.version
    shapes, events = published(settings)
    assert [s.version for s in shapes] == [old.version, new.version]
    assert len({event.shape_version for event in events[2:]}) == 2


def test_processes_that_start_side_by_side_take_one_turn_each(world: World) -> None:
    """An old process restarts while new processes start."""
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
def test_processes_do_not_wait_for_a_long_transaction_that_makes_its_shape_the_newest(world: World) -> None:
    """Only a new process with an equal shape waits, exactly as for a process that writes a new shape."""
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
def test_the_newest_shape_does_not_depend_on_the_clock(world: World) -> None:
    """The clock was set back after the other shape was written."""
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


@pytest.mark.parametrize("primary_url", ["postgresql", "mariadb", "sqlite"], indirect=True)
def test_triggers_that_are_installed_again_have_the_newest_shape(world: World) -> None:
    change = CHANGES["dropped"]
    old, new = world.process(FIRST), world.process(change.model)
    for process, back in ((old, False), (new, True), (old, None)):
        with world.engine.begin() as connection:
            install(connection, process.captured)
        assert world.newest() == process.version
        if back is not None:
            world.migrate(change, back=back)
