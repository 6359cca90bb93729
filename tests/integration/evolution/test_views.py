"""A view stays in force through migrations of the source, refused rows and repairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.consumer.dead_letters.replica_queue import replica_queue
from rowcast.consumer.topics.trace import trace
from rowcast.consumer.verification.comparison import verify
from rowcast.consumer.verification.repair import repair_differences
from rowcast.producer import Capture
from rowcast.producer.relay import Relay
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables.server_defaults import ServerDefault
from rowcast.shared.tables.shape import TableShape
from servers import Broker
from support.kafka_source import Source, column, shape
from support.relay.threads import running_thread
from support.worker_runs import NAME, Database, running_worker, settings_for, work_once

PERSON = shape("person", column("email", "string"), column("age", "int32"), column("ssn", "string", nullable=False))
VIEW = {"without": ["ssn"], "mask": {"email": "prefix:3"}, "where": "age >= 18", "name": "adult"}


class World:
    """A source without a database, and a replica with a view."""

    def __init__(self, new_database: NewDatabase, kafka: Broker, source_name: str, engine: str) -> None:
        self.source = Source(kafka.bootstrap_servers, source_name)
        self.source.add(PERSON)
        self.url = new_database(engine)
        self.replica = Database(self.url)
        self.settings = self.with_view(VIEW)

    def with_view(self, view: dict[str, Any], **options: Any) -> Settings:
        views = {"public.person": view}
        return settings_for(self.source.name, self.source.bootstrap, self.url, view=views, **options)

    def write(self, *rows: dict[str, Any], op: str = "c", table: str = "person") -> None:
        self.source.transaction(*((op, table, row) for row in rows))

    def columns(self) -> list[str]:
        return [one["name"] for one in sa.inspect(self.replica.engine).get_columns("adult")]


@pytest.fixture
def new_world(new_database: NewDatabase, kafka: Broker, source_name: str) -> Callable[[str], World]:
    return lambda engine: World(new_database, kafka, source_name, engine)


def without(one: TableShape, *names: str) -> TableShape:
    return replace(one, columns=tuple(c for c in one.columns if c.name not in names))


@pytest.mark.parametrize("engine", ["postgresql", "sqlite"])
def test_a_view_stays_in_force_through_migrations(new_world: Callable[[str], World], engine: str) -> None:
    world = new_world(engine)
    world.write({"id": 1, "email": "ann@a", "age": 20, "ssn": "1"}, {"id": 2, "email": "bob@b", "age": 9, "ssn": "2"})
    assert work_once(world.settings).state == "consistent"
    assert world.replica.rows("adult", "id", "email", "age") == [(1, "ann", 20)]

    # A new column arrives with its default, and a masked column is renamed.
    city = replace(column("city", "string", nullable=False), default=ServerDefault("string", "here"))
    mail = replace(PERSON.column("email"), name="mail", was=("email",))
    wider = replace(PERSON, columns=(PERSON.column("id"), mail, *PERSON.columns[2:], city))
    world.source.add(wider)
    world.write({"id": 3, "mail": "cid@c", "age": 30, "ssn": "3", "city": "there"})
    work_once(world.settings)
    assert world.columns() == ["id", "mail", "age", "city"]
    assert world.replica.rows("adult", "id", "mail", "city") == [(1, "ann", "here"), (3, "cid", "there")]

    # The source drops a column that the view names. The events before it never had the column in the replica.
    world.write({"id": 3, "mail": "dee@d", "age": 30, "ssn": "3", "city": "x"}, op="u")
    narrower = without(wider, "ssn")
    world.source.add(narrower)
    world.write({"id": 4, "mail": "eve@e", "age": 40, "city": "y"})
    with pytest.raises(ConfigurationError, match="without names column ssn, which the table does not have"):
        work_once(world.settings)
    kept = {key: value for key, value in VIEW.items() if key != "without"}
    work_once(world.with_view(kept))
    assert world.replica.rows("adult", "id", "mail") == [(1, "ann"), (3, "dee"), (4, "eve")]

    # The source renames the table. The view goes with it.
    human = replace(narrower, name="human", was=("public.person",))
    world.source.add(human)
    world.write(
        {"id": 5, "mail": "fay@f", "age": 50, "city": "z"}, {"id": 6, "mail": "g", "age": 1, "city": ""}, table="human"
    )
    work_once(world.with_view(kept))
    assert world.replica.rows("adult", "id", "mail")[-1] == (5, "fay")
    assert {"human", "person"}.isdisjoint(world.replica.tables())


def test_a_group_of_workers_follows_a_view(new_database: NewDatabase, kafka: Broker, source_name: str) -> None:
    source, url = Source(kafka.bootstrap_servers, source_name, partitions=3), new_database("postgresql")
    views = {"public.person": VIEW}
    settings = settings_for(source_name, kafka.bootstrap_servers, url, view=views, consistency="row")
    source.add(PERSON)

    def write(op: str, shift: int) -> list[int]:
        """Write people of ages from 15 to 20. Return the keys of the adults."""
        ages = {number: 15 + (number + shift) % 6 for number in range(20)}
        rows = ({"id": number, "email": "ann@a", "age": age, "ssn": ""} for number, age in ages.items())
        source.transaction(*((op, "person", row) for row in rows))
        work_once(settings)
        return [number for number, age in ages.items() if age >= 18]

    for op, shift in (("c", 0), ("u", 3), ("u", 1)):
        adults = write(op, shift)
        assert sorted(Database(url).rows("adult", "id", "email")) == [(number, "ann") for number in adults]


def test_a_refused_row_comes_back_through_the_view(new_world: Callable[[str], World]) -> None:
    world = new_world("sqlite")
    settings = world.with_view(VIEW, on_bad_row="dlq", dlq_unit="event")
    world.write({"id": 1, "email": "ann@a", "age": 20, "ssn": "1"})
    work_once(settings)
    world.replica.execute("CREATE UNIQUE INDEX mine ON adult (email)")
    world.write({"id": 2, "email": "ann@b", "age": 30, "ssn": "2"})
    work_once(settings)
    # The row leaves the view, and the event follows into the dead letter topic all the same.
    world.write(
        {"id": 2, "email": "ann@c", "age": 10, "ssn": "2"}, {"id": 3, "email": "cid", "age": 18, "ssn": "3"}, op="u"
    )
    work_once(settings)
    assert world.replica.rows("adult", "id", "email") == [(1, "ann"), (3, "cid")]
    assert len(world.replica.rows("rowcast_dead_letter")) == 2
    world.replica.execute("DROP INDEX mine")
    with replica_queue(settings, NAME) as queue:
        assert queue.retry([]) == 0
    assert world.replica.rows("adult", "id", "email") == [(1, "ann"), (3, "cid")]
    assert world.replica.rows("rowcast_dead_letter") == []


def test_a_value_that_the_condition_cannot_compare_stops_at_its_event(new_world: Callable[[str], World]) -> None:
    world = new_world("sqlite")
    world.source.add(replace(PERSON, engine="sqlite"))
    work_once(world.settings)
    good, bad = {"id": 1, "email": "ann@a", "age": 20, "ssn": "1"}, {"id": 2, "email": "b", "age": "old", "ssn": "2"}
    world.write(good)
    world.write(bad)
    world.write({**good, "id": 3})
    with pytest.raises(DataError, match="the view: column age holds a value that is no int32") as caught:
        work_once(world.settings)
    # Everything before the event has been applied, and the error names the command that leaves it out.
    assert world.replica.rows("adult", "id") == [(1,)]
    assert "--skip" in str(caught.value)


@pytest.mark.usefixtures("short_comparisons")
def test_a_repair_through_the_topics_passes_the_view(
    new_database: NewDatabase, kafka: Broker, source_name: str
) -> None:
    metadata = sa.MetaData()
    person = sa.Table(
        "person",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("email", sa.String(40)),
        sa.Column("age", sa.Integer),
    )
    primary_url, url = new_database("sqlite"), new_database("sqlite")
    views = {"main.person": {"where": "age >= 18", "mask": {"email": "fixed:*"}, "name": "adult"}}
    settings = settings_for(source_name, kafka.bootstrap_servers, url, primary_url, view=views)
    settings = settings.model_copy(update={"relay": RelaySettings(poll_max_ms=10)})
    engine = sa.create_engine(primary_url)
    capture = Capture(metadata, source=source_name)
    metadata.create_all(engine)
    capture.install(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(person), [{"id": n, "email": f"{n}", "age": 10 * n} for n in range(5)])
    replica = Database(url)
    with running_thread(Relay(settings, engine)), running_worker(settings) as worker:
        worker.until(lambda progress: progress.state == "consistent" and progress.events >= 5)
        assert replica.rows("adult", "id", "email") == [(2, "*"), (3, "*"), (4, "*")]
        replica.execute(
            "INSERT INTO adult VALUES (1, 'x', 10)", "DELETE FROM adult WHERE id = 2", "UPDATE adult SET email = '3'"
        )
        found = verify(settings, NAME)
        assert [(t.missing, t.extra, t.different) for t in found.tables] == [(1, 1, 2)]
        assert repair_differences(settings, NAME, found, dry_run=False).equal
        assert replica.rows("adult", "id", "email") == [(2, "*"), (3, "*"), (4, "*")]
        steps = {step.place: step for step in trace(settings, "person", "1")}
        assert steps["replica copy"].text == "the view of the replica does not take the row"
        assert not any(step.is_stuck for step in trace(settings, "person", "3"))
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(person)) == 5
    engine.dispose()
