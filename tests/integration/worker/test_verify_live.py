"""Verify while both sides are live: planted differences, rows that change all the time, a late replica, repair."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from fixtures.databases import NewDatabase
from rowcast.consumer import replica_status
from rowcast.consumer.running.run_worker import run_worker
from rowcast.consumer.verification.comparison import verify
from rowcast.consumer.verification.repair import plan_repair, repair_differences
from rowcast.consumer.verification.results import Difference, VerifyResult
from rowcast.consumer.worker.metrics import WorkerMetrics
from rowcast.producer import Capture
from rowcast.producer.relay import Relay
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError
from servers import Broker
from support.relay.threads import running_thread, wait_until
from support.worker_runs import NAME, running_worker, settings_for, work_once

OTHER = "other"
TIMESTAMP = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")

METADATA = sa.MetaData()
THING = sa.Table(
    "thing",
    METADATA,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("whole", sa.Integer),
    sa.Column("name", sa.String(40)),
    sa.Column("share", sa.Double),
    sa.Column("money", sa.Numeric(12, 2)),
    sa.Column("data", sa.LargeBinary),
    sa.Column("at", TIMESTAMP),
    sa.Column("doc", sa.JSON(none_as_null=True)),
    sa.Column("flag", sa.Boolean),
)
PART = sa.Table(
    "part",
    METADATA,
    sa.Column("kind", sa.String(20), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("thing_id", sa.ForeignKey("thing.id")),
    sa.Column("note", sa.Text),
)
START = datetime(2026, 1, 1, 12)

# Values that are close to each other, so that a careless comparison takes them for equal.
CLOSE: dict[str, list[Any]] = {
    "whole": [None, 0, 1, -1],
    "name": [None, "", "a", "A", "a ", "ä", "a\u0308", "%s", '"'],
    "share": [None, 0.1, 0.10000000000000002, -0.1, 1e-300],
    "money": [None, Decimal("1.50"), Decimal("1.51"), Decimal("0.00")],
    "data": [None, b"", b"\0", b"\0\1", b"\0\1\0"],
    "at": [None, START, START + timedelta(microseconds=1), START + timedelta(hours=1)],
    "doc": [None, {"a": 1}, {"a": "1"}, {"a": True}, [1, 2], [2, 1], {"a": 1, "b": None}],
    "flag": [None, True, False],
}


Found = tuple[str, bytes, tuple[str, ...]]
"""Kind, key and columns of a difference."""


def things(chance: random.Random, ids: range) -> list[dict[str, Any]]:
    return [{"id": i, **{name: chance.choice(values) for name, values in CLOSE.items()}} for i in ids]


def parts(ids: range) -> list[dict[str, Any]]:
    return [{"kind": f"{'kKä'[i % 3]}{i % 2}", "number": i, "thing_id": i, "note": "x"} for i in ids]


class World:
    """A primary with a capture, and two replicas of one engine."""

    def __init__(self, kafka: Broker, new_database: NewDatabase, primary: str, replica: str) -> None:
        self.source = f"live-{uuid.uuid4().hex[:8]}"
        urls = [new_database(replica) for _ in range(2)]
        settings = settings_for(self.source, kafka.bootstrap_servers, urls[0], new_database(primary))
        both = {NAME: settings.replicas[NAME], OTHER: ReplicaSettings(url=urls[1])}
        self.settings: Settings = settings.model_copy(update={"replicas": both})
        self.primary = open_engine(self.settings.require_primary().sqlalchemy_url, "primary", pooled=False)
        # The capture's tables would stay in the metadata that tests share.
        metadata = sa.MetaData()
        self.thing, self.part = THING.to_metadata(metadata), PART.to_metadata(metadata)
        Capture(metadata, source=self.source).install(self.primary)
        metadata.create_all(self.primary)
        self.replicas = {name: open_engine(r.sqlalchemy_url, name, pooled=False) for name, r in both.items()}

    def write(self, *statements: Any) -> int:
        """Execute the statements in one transaction. Return the number of changed rows."""
        with self.primary.begin() as connection:
            return sum(connection.execute(statement).rowcount for statement in statements)

    def fill(self, rows: int, seed: int = 1) -> None:
        self.write(
            sa.insert(self.thing).values(things(random.Random(seed), range(rows))),
            sa.insert(self.part).values(parts(range(rows))),
        )

    def carry(self, *names: str) -> None:
        """Publish, and apply to the replicas."""
        Relay(self.settings, self.primary).run_once()
        for name in names or (NAME, OTHER):
            run_worker(self.settings, name, once=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the relay, and a worker of each replica."""
        other = self.settings.model_copy(update={"replicas": {NAME: self.settings.replicas[OTHER]}})
        with ExitStack() as running:
            running.enter_context(running_thread(Relay(self.settings, self.primary)))
            running.enter_context(running_worker(self.settings))
            running.enter_context(running_worker(other))
            yield

    def plant(self, replica: str, count: int, seed: int) -> set[Found]:
        """Make rows of a replica differ. Return kind, key and columns of each difference."""
        chance = random.Random(seed)
        planted: set[Found] = set()
        with self.replicas[replica].begin() as connection:
            ids = [row[0] for row in connection.execute(sa.select(self.thing.c.id).order_by(self.thing.c.id))]
            for n, id_ in enumerate(chance.sample(ids, count)):
                where = self.thing.c.id == id_
                if n % 10 == 0:
                    connection.execute(sa.delete(self.part).where(self.part.c.thing_id == id_))
                    connection.execute(sa.delete(self.thing).where(where))
                    planted.add(("missing", orjson.dumps({"id": id_}), ()))
                    part = parts(range(id_, id_ + 1))[0]
                    planted.add(("missing", orjson.dumps({"kind": part["kind"], "number": id_}), ()))
                elif n % 10 == 1:
                    connection.execute(sa.insert(self.thing).values(things(chance, range(10_000 + id_, 10_001 + id_))))
                    planted.add(("extra", orjson.dumps({"id": 10_000 + id_}), ()))
                else:
                    column = chance.choice(list(CLOSE))
                    row = connection.execute(sa.select(self.thing).where(where)).mappings().one()
                    different = [v for v in CLOSE[column] if v != row[column] or type(v) is not type(row[column])]
                    connection.execute(sa.update(self.thing).where(where).values({column: chance.choice(different)}))
                    planted.add(("different", orjson.dumps({"id": id_}), (column,)))
        return planted


def found(result: VerifyResult) -> set[Found]:
    differences = [d for table in result.tables for d in table.differences]
    assert len(differences) == sum(table.differing for table in result.tables)
    return {(d.kind, orjson.dumps(d.key), d.columns) for d in differences}


NewWorld = Callable[[str, str], World]


@pytest.fixture
def new_world(kafka: Broker, new_database: NewDatabase) -> NewWorld:
    return lambda primary, replica: World(kafka, new_database, primary, replica)


PAIRS = [
    ("postgresql", "postgresql"),
    ("postgresql", "mariadb"),
    ("mariadb", "mariadb"),
    ("mariadb", "postgresql"),
    ("postgresql", "sqlite"),
]


@pytest.mark.parametrize(("primary", "replica"), PAIRS)
def test_every_planted_difference_is_found_and_repair_heals_all_replicas(
    new_world: NewWorld, primary: str, replica: str, campaign: bool
) -> None:
    world = new_world(primary, replica)
    rows, count = (5_000, 1_000) if campaign else (300, 60)
    world.fill(rows)
    world.carry()
    assert verify(world.settings, NAME).equal
    planted = world.plant(NAME, count, seed=7)
    assert world.plant(OTHER, count, seed=7) == planted
    result = verify(world.settings, NAME)
    assert found(result) == planted
    assert result.verdict == "different"
    # A dry run sends nothing.
    assert repair_differences(world.settings, NAME, result, dry_run=True) is result
    plan = plan_repair(world.settings, NAME, result)
    assert (plan.delete_count, plan.row_count) == (
        sum(kind == "extra" for kind, _, _ in planted),
        sum(kind != "extra" for kind, _, _ in planted),
    )
    with world.running():
        assert repair_differences(world.settings, NAME, result, dry_run=False).equal
        assert verify(world.settings, OTHER).equal
    assert verify(world.settings, NAME).equal


@pytest.mark.parametrize(("primary", "replica"), PAIRS[:2])
def test_rows_that_change_all_the_time_are_no_false_alarm(new_world: NewWorld, primary: str, replica: str) -> None:
    world = new_world(primary, replica)
    world.fill(200)
    world.carry()
    stop, changes = threading.Event(), 0

    def change() -> None:
        nonlocal changes
        chance, turn = random.Random(3), 0
        thing = world.thing
        while not stop.is_set():
            # Hundreds of changes a second: some rows in each transaction, others now and then, and some come and go.
            hot = sa.update(thing).where(thing.c.id <= 15).values(whole=turn)
            other = sa.update(thing).where(thing.c.id == chance.randrange(16, 150)).values(name=str(turn))
            new = 1_000 + turn % 5
            guest = sa.delete(thing).where(thing.c.id == new) if turn // 5 % 2 else sa.insert(thing).values(id=new)
            changes += world.write(hot, other, guest)
            turn += 1

    with world.running():
        writer = threading.Thread(target=change)
        writer.start()
        try:
            for _ in range(3):
                before = changes
                assert verify(world.settings, NAME).equal
                assert changes > before
            # A row that nobody changes is found among those that change.
            with world.replicas[NAME].begin() as connection:
                connection.execute(sa.update(world.thing).where(world.thing.c.id == 180).values(name="wrong"))
            result = verify(world.settings, NAME)
        finally:
            stop.set()
            writer.join()
    assert [d for t in result.tables for d in t.differences] == [Difference("different", {"id": 180}, ("name",))]


def test_a_hot_row_that_the_worker_applies_wrongly_is_found(new_world: NewWorld) -> None:
    """A trigger in the replica changes a value of a row that changes all the time."""
    world = new_world("postgresql", "sqlite")
    world.fill(20)
    world.carry()
    with world.replicas[NAME].begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER spoil AFTER UPDATE ON thing WHEN new.id = 1 AND new.name <> 'spoilt' "
            "BEGIN UPDATE thing SET name = 'spoilt' WHERE id = 1; END"
        )
    stop = threading.Event()

    def change() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            world.write(sa.update(world.thing).where(world.thing.c.id == 1).values(whole=n, name="right"))

    with world.running():
        writer = threading.Thread(target=change)
        writer.start()
        try:
            result = verify(world.settings, NAME)
        finally:
            stop.set()
            writer.join()
    assert [d for t in result.tables for d in t.differences] == [Difference("different", {"id": 1}, ("name",))]


def test_a_replica_that_is_behind_is_not_called_different(new_world: NewWorld) -> None:
    world = new_world("postgresql", "sqlite")
    world.fill(50)
    world.carry()
    world.write(sa.update(world.thing).values(whole=77))
    began = time.monotonic()
    unpublished = verify(world.settings, NAME, wait_s=0.2)
    assert (unpublished.verdict, unpublished.tables[1].behind, unpublished.tables[1].differing) == ("behind", 50, 0)
    assert unpublished.reason is not None
    assert "relay" in unpublished.reason
    assert time.monotonic() - began < 20
    Relay(world.settings, world.primary).run_once()
    unapplied = verify(world.settings, NAME, wait_s=0.2)
    assert (unapplied.verdict, unapplied.tables[1].behind) == ("behind", 50)
    assert unapplied.reason is not None
    assert "worker" in unapplied.reason
    work_once(world.settings)
    assert verify(world.settings, NAME, wait_s=0.2).equal


def test_a_row_without_an_event_is_extra_after_a_move_of_the_primary(new_world: NewWorld) -> None:
    """Rows of the replica that have never been on the primary, on a table without rows there."""
    world = new_world("postgresql", "postgresql")
    world.write(sa.insert(world.thing).values(id=1))
    world.carry()
    world.write(sa.delete(world.thing))
    world.carry()
    assert verify(world.settings, NAME).verdict == "nothing compared"
    with world.replicas[NAME].begin() as connection:
        connection.execute(sa.insert(world.thing).values(id=5, at=datetime.now(UTC).replace(tzinfo=None)))
    result = verify(world.settings, NAME)
    assert (result.verdict, found(result)) == ("different", {("extra", b'{"id":5}', ())})


def test_the_worker_compares_on_a_schedule_and_status_shows_the_result(new_world: NewWorld) -> None:
    world = new_world("postgresql", "sqlite")
    world.fill(20)
    world.carry()
    replica = world.settings.replicas[NAME].model_copy(update={"verify_every": 1.0})
    settings = world.settings.model_copy(update={"replicas": {NAME: replica}})
    with running_worker(settings):
        wait_until(lambda: _verdict(settings) == "equal")
        with world.replicas[NAME].begin() as connection:
            connection.execute(sa.update(world.thing).where(world.thing.c.id == 3).values(name="wrong"))
        wait_until(lambda: _verdict(settings) == "different")
    last = replica_status(settings, NAME).verified
    assert last is not None
    assert (last.rows, last.differing) == (40, 1)
    collected = WorkerMetrics("s", NAME, lambda: replica_status(settings, NAME)).collect()
    metrics = {metric.name: metric.samples[0].value for metric in collected}
    assert metrics["rowcast_replica_verify_equal"] == 0
    assert metrics["rowcast_replica_verify_differing_rows"] == 1
    assert metrics["rowcast_replica_verify_timestamp_seconds"] == pytest.approx(time.time(), abs=60)


def _verdict(settings: Settings) -> str | None:
    last = replica_status(settings, NAME).verified
    return None if last is None else last.verdict


def test_a_schedule_needs_the_primary(kafka: Broker, source_name: str, new_database: NewDatabase) -> None:
    settings = settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"), verify_every=60)
    with pytest.raises(ConfigurationError, match=r"verify_every in \[replicas.copy\] needs the primary"):
        work_once(settings)
