"""A truncate deletes all rows of its table in its place among the other events, or has no effect if it is ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rowcast.shared.errors import DataError
from servers import Broker
from support.kafka_source import Line, Source, column, shape
from support.worker_runs import Database, settings_for, work_once

ENGINES = ["postgresql", "mariadb", "mysql", "sqlite"]
PARENT = shape("parent", column("n"), unique=[("n",)])
CHILD = shape("child", column("parent_id"), refers=[("parent_id", "parent")])


def parents(numbers: range, add: int = 0) -> list[Line]:
    return [("c", "parent", {"id": n, "n": n + add}) for n in numbers]


class World:
    def __init__(self, url: str, kafka: Broker, name: str, **options: Any) -> None:
        self.settings = settings_for(name, kafka.bootstrap_servers, url, **options)
        self.replica = Database(url)
        # The rows and the truncate of a topic are in different partitions.
        self.source = Source(kafka.bootstrap_servers, name, partitions=3)
        self.source.add(PARENT, CHILD)

    def rows(self) -> tuple[list[Any], list[Any]]:
        return self.replica.rows("parent", "id", "n"), self.replica.rows("child", "id", "parent_id")


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ENGINES)
def test_a_truncate_has_its_place_among_the_other_events(
    engine: str, new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    url = new_database(engine)
    world = World(url, kafka, source_name)
    # While the replica loads by key.
    world.source.transaction(*parents(range(20)), ("c", "child", {"id": 1, "parent_id": 3}))
    world.source.transaction(("t", "child", {}), ("t", "parent", {}))
    world.source.transaction(*parents(range(10, 13)), ("c", "child", {"id": 2, "parent_id": 11}))
    assert work_once(world.settings).state == "consistent"
    assert world.rows() == ([(10, 10), (11, 11), (12, 12)], [(2, 11)])
    # By transaction, with rows before and after the truncate in one transaction, and unique values that return.
    world.source.transaction(
        *parents(range(100, 120)),
        ("d", "child", {"id": 2}),
        ("c", "child", {"id": 3, "parent_id": 105}),
        ("t", "child", {}),
        ("t", "parent", {}),
        *parents(range(30, 40), add=70),
        ("c", "child", {"id": 2, "parent_id": 31}),
    )
    world.source.transaction(("u", "parent", {"id": 30, "n": -1}))
    work_once(world.settings)
    kept = [(30, -1), *((n, n + 70) for n in range(31, 40))]
    assert world.rows() == (sorted(kept, key=repr), [(2, 31)])
    # The same through a file, as a transaction that does not fit into memory.
    small = settings_for(source_name, kafka.bootstrap_servers, url, batch_events=5)
    world.source.transaction(("t", "child", {}), ("t", "parent", {}), *parents(range(50, 70)))
    work_once(small)
    assert world.rows() == ([(n, n) for n in range(50, 70)], [])


def test_a_truncate_that_leaves_orphans_is_refused_and_one_that_is_ignored_counts(
    new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    url = new_database("postgresql")
    world = World(url, kafka, source_name)
    world.source.transaction(*parents(range(3)), ("c", "child", {"id": 1, "parent_id": 1}))
    work_once(world.settings)
    world.source.transaction(("t", "parent", {}), ("c", "parent", {"id": 7, "n": 7}))
    with pytest.raises(DataError, match="a constraint of the replica refuses the change"):
        work_once(world.settings)
    work_once(settings_for(source_name, kafka.bootstrap_servers, url, on_truncate="ignore"))
    assert world.rows() == ([(0, 0), (1, 1), (2, 2), (7, 7)], [(1, 1)])
