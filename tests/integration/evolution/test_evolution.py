"""The table of docs/reference/schema-changes.md: each kind of change on each engine, by one migration."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import ENGINES, NewDatabase
from servers import Broker
from support.evolution_world import CHANGES, EvolutionWorld, metadata
from support.worker_runs import Database, work_once

LATER = "made afterwards"


@dataclass
class Replica:
    """A replica that has followed the migration."""

    database: Database
    states: list[str]


@pytest.fixture(scope="module")
def world(kafka: Broker, new_lasting_database: NewDatabase) -> Iterator[EvolutionWorld]:
    source = f"evolution-{uuid.uuid4().hex[:8]}"
    world = EvolutionWorld(source, kafka.bootstrap_servers, new_lasting_database("postgresql"))
    yield world
    world.engine.dispose()


@pytest.fixture(scope="module")
def replicas(world: EvolutionWorld, new_lasting_database: NewDatabase) -> dict[str, Replica]:
    """Let a replica of each engine follow the migration, and make another one afterwards."""
    urls = {engine: new_lasting_database(engine) for engine in ENGINES}
    world.begin()
    found = {engine: Replica(Database(url), []) for engine, url in urls.items()}
    for engine, url in urls.items():
        work_once(world.settings(url))
        found[engine].states.append(found[engine].database.state())
    world.migrate()
    urls[LATER] = new_lasting_database("sqlite")
    found[LATER] = Replica(Database(urls[LATER]), [])
    for name, url in urls.items():
        work_once(world.settings(url))
        found[name].states.append(found[name].database.state())
    return found


@pytest.fixture(params=[*ENGINES, LATER], scope="module")
def replica(request: pytest.FixtureRequest, replicas: dict[str, Replica]) -> Replica:
    return replicas[request.param]


def rows_of(replica: Replica, table: str) -> list[dict[str, Any]]:
    wanted = metadata(migrated=True).tables[table]
    with replica.database.engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.select(wanted).order_by(wanted.c.id)).mappings()]


@pytest.mark.parametrize("kind", CHANGES)
def test_a_replica_follows_a_change(kind: str, replica: Replica, world: EvolutionWorld) -> None:
    change, inspector = CHANGES[kind], sa.inspect(replica.database.engine)
    assert rows_of(replica, kind) == world.rows(kind)
    columns = {c["name"]: c["nullable"] for c in inspector.get_columns(kind) if c["name"] != "id"}
    if replica.states == ["consistent", "consistent"]:
        assert columns == change.columns
    unique = [index["column_names"] for index in inspector.get_indexes(kind) if index["unique"]]
    assert unique == [[name] for name in change.unique]
    foreign = [key["constrained_columns"] for key in inspector.get_foreign_keys(kind)]
    assert foreign == [[name] for name in change.foreign]


def test_a_replica_is_consistent_before_and_after(replica: Replica) -> None:
    assert set(replica.states) == {"consistent"}


def test_a_table_is_added_and_a_dropped_table_is_kept(replica: Replica, world: EvolutionWorld) -> None:
    assert rows_of(replica, "table_added") == world.rows("table_added")
    assert replica.database.rows("table_dropped") == [(1, "a")]
