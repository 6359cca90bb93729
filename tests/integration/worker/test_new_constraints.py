"""A consistent replica that cannot have a constraint of a new shape is not consistent any more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fixtures.databases import ENGINES, NewDatabase
from rowcast.shared.tables.shape import TableShape
from servers import Broker
from support.direct_replica import direct_replica
from support.kafka_source import Source, column, shape
from support.worker_runs import Database, running_worker, settings_for, work_once

ITEM = shape("item")
PART = shape("part", column("item_id"), column("name"))
REFERRING = shape("part", column("item_id"), column("name"), refers=[("item_id", "item")])
UNIQUE = replace(PART, unique=(("name",),))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("new", [REFERRING, UNIQUE], ids=["foreign key", "unique key"])
def test_rows_that_violate_a_new_constraint_end_the_consistency(
    engine: str, new: TableShape, new_database: NewDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    with direct_replica(new_database(engine), ITEM, PART) as direct:
        direct.apply(
            ("c", "part", {"id": 1, "item_id": 5, "name": 7}), ("c", "part", {"id": 2, "item_id": 5, "name": 7})
        )
        direct.add(new)
        direct.apply(("c", "part", {"id": 3, "item_id": None, "name": None}))
        assert direct.rows("rowcast_replica", "state", "deletes_known_ms") == [("loading", 1)]
        assert "so the replica is loading" in caplog.text
        # A worker that starts again, or tries again, finds the same.
        direct.restart()
        assert direct.replica.state == "loading"
        assert not direct.replica.become_consistent()
        direct.apply(("c", "item", {"id": 5}), ("u", "part", {"id": 2, "item_id": 5, "name": 8}))
        assert direct.replica.become_consistent()
        assert direct.database.state() == "consistent"


@pytest.mark.parametrize("own", [False, True], ids=["worker's", "with a CHECK of the user's"])
def test_sqlite_writes_a_table_again_for_a_new_foreign_key(
    own: bool, new_database: NewDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    with direct_replica(new_database("sqlite"), ITEM, PART) as direct:
        if own:
            direct.database.execute("ALTER TABLE part ADD COLUMN mine INTEGER CHECK (mine > 0)")
        direct.apply(("c", "item", {"id": 1}), ("c", "part", {"id": 1, "item_id": 1, "name": 5}))
        direct.add(REFERRING)
        direct.apply(("c", "part", {"id": 3, "item_id": None, "name": None}))
        assert direct.database.state() == "consistent"
        assert direct.rows("part", "id", "item_id", "name") == [(1, 1, 5), (3, None, None)]
        assert len(direct.database.foreign_keys("part")) == (0 if own else 1)
        assert ("is left out" in caplog.text) == own


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_a_worker_makes_the_replica_consistent_again_when_the_rows_allow_the_constraint(
    restarted: bool,
    new_database: NewDatabase,
    kafka: Broker,
    source_name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url, source = new_database("postgresql"), Source(kafka.bootstrap_servers, source_name)
    settings = settings_for(source_name, kafka.bootstrap_servers, url)
    source.add(ITEM, PART)
    source.transaction(("c", "part", {"id": 1, "item_id": 5, "name": 7}))
    work_once(settings)
    assert Database(url).state() == "consistent"
    if restarted:
        # The worker that starts reads the shape before it has applied the rows that precede the shape.
        source.add(REFERRING)
        with running_worker(settings) as worker:
            worker.until(lambda progress: progress.state == "loading")
            source.transaction(("c", "item", {"id": 5}))
            worker.until(lambda progress: progress.state == "consistent")
    else:
        with running_worker(settings) as worker:
            worker.until(lambda progress: progress.state == "consistent")
            source.add(REFERRING)
            source.transaction(("c", "part", {"id": 2, "item_id": None, "name": None}))
            worker.until(lambda progress: progress.state == "loading")
            source.transaction(("c", "item", {"id": 5}))
            worker.until(lambda progress: progress.state == "consistent")
    assert [key["name"] for key in Database(url).foreign_keys("part")]
