"""A loading replica holds conflicting changes back, and becomes consistent when all of them have arrived."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.replica.connection import Replica
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.errors import ConfigurationError, RetriableError, UnreachableError
from support.kafka_source import column, shape

CITY = shape("city", column("name", "text"), unique=[("name",)])
PARTITION = ("t", 0)


@pytest.fixture
def layouts() -> RowLayouts:
    layouts = RowLayouts()
    layouts.add(CITY.version, CITY)
    return layouts


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/replica.db")
    yield engine
    engine.dispose()


@pytest.fixture
def replica(database: sa.Engine, layouts: RowLayouts) -> Iterator[Replica]:
    replica = Replica("shop", "copy", ReplicaSettings(url=str(database.url)), layouts)
    replica.take_over()
    yield replica
    replica.close()


def run(layouts: RowLayouts, key: int, name: str | None, lsn: int, *, by_key: bool = True) -> Run:
    """Return a run with a change of a city. ``name``: None for a delete."""
    layout = layouts.find("public.city", CITY.version)
    assert layout is not None
    image = None if name is None else b'{"id":%d,"name":"%s"}' % (key, name.encode())
    change = Change(layout, b'{"id":%d}' % key, image, lsn, "7", 1, PARTITION, lsn)
    return Run([Transaction("7", lsn, 1, [change], {PARTITION: Position(lsn + 1, lsn)}, by_key)])


def state_of(replica: Replica) -> str:
    return replica.state


def cities(database: sa.Engine) -> list[tuple[Any, ...]]:
    with database.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql("SELECT id, name FROM city ORDER BY id")]


def test_loading_creates_the_tables_and_ends_consistent(
    replica: Replica, layouts: RowLayouts, database: sa.Engine
) -> None:
    assert replica.apply(run(layouts, 1, "a", 1)) == 1
    assert state_of(replica) == "loading"
    assert replica.become_consistent()
    assert state_of(replica) == "consistent"
    assert replica.apply(run(layouts, 2, "b", 2, by_key=False)) == 1
    assert cities(database) == [(1, "a"), (2, "b")]
    row, positions = replica.take_over()
    assert (row.epoch, row.state, row.lsn, positions) == (2, "consistent", 2, {PARTITION: Position(3, 2)})


def test_conflicting_changes_are_held_back_until_others_resolve_them(
    layouts: RowLayouts, database: sa.Engine, replica: Replica
) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE city (id BIGINT PRIMARY KEY, name TEXT UNIQUE)")
    replica.apply(run(layouts, 1, "a", 1))
    replica.apply(run(layouts, 2, "a", 2))
    assert cities(database) == [(1, "a")]
    replica.apply(run(layouts, 1, None, 3))
    assert cities(database) == [(2, "a")]


def test_a_fault_at_the_cutover_does_not_lose_the_changes_held_back(
    layouts: RowLayouts, database: sa.Engine, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE city (id BIGINT PRIMARY KEY, name TEXT UNIQUE)")
    replica.apply(run(layouts, 1, "a", 1))
    replica.apply(run(layouts, 2, "a", 2))
    replica.apply(run(layouts, 1, "b", 3))

    def fail(*_: object) -> None:
        raise RetriableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(replica._applier, "apply", fail)
        with pytest.raises(RetriableError):
            replica.become_consistent()
    assert replica.become_consistent()
    assert cities(database) == [(1, "b"), (2, "a")]


def test_rows_that_violate_a_constraint_keep_the_replica_loading(
    layouts: RowLayouts, database: sa.Engine, replica: Replica
) -> None:
    replica.apply(run(layouts, 1, "a", 1))
    replica.apply(run(layouts, 2, "a", 2))
    assert not replica.become_consistent()
    assert replica.state == "loading"
    replica.apply(run(layouts, 2, "b", 3))
    assert replica.become_consistent()


def test_a_replica_that_loads_again_has_no_unique_keys(
    layouts: RowLayouts, database: sa.Engine, replica: Replica
) -> None:
    replica.apply(run(layouts, 1, "a", 1))
    replica.become_consistent()
    replica.begin_loading()
    replica.apply(run(layouts, 2, "a", 2))
    assert cities(database) == [(1, "a"), (2, "a")]


def test_after_a_fault_only_what_is_missing_is_applied_again(
    layouts: RowLayouts, database: sa.Engine, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit succeeded, but the worker does not know."""
    replica.apply(run(layouts, 1, "a", 1))
    apply = replica._applier.apply

    def lose(*arguments: Any, **options: Any) -> None:
        apply(*arguments, **options)
        raise RetriableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(replica._applier, "apply", lose)
        with pytest.raises(RetriableError):
            replica.apply(run(layouts, 2, "b", 2))
    assert replica.apply(run(layouts, 2, "b", 2)) == 0
    assert cities(database) == [(1, "a"), (2, "b")]


def test_a_missing_file_is_awaited_and_not_created(
    layouts: RowLayouts, database: sa.Engine, replica: Replica, tmp_path: Path
) -> None:
    replica.apply(run(layouts, 1, "a", 1))
    (tmp_path / "replica.db").rename(tmp_path / "away.db")
    for _ in range(2):
        with pytest.raises(RetriableError, match=r"its file .*replica\.db is gone"):
            replica.apply(run(layouts, 2, "b", 2))
    assert not (tmp_path / "replica.db").exists()
    (tmp_path / "away.db").rename(tmp_path / "replica.db")
    assert replica.apply(run(layouts, 2, "b", 2)) == 1
    assert cities(database) == [(1, "a"), (2, "b")]


def test_a_locked_database_is_retriable_and_a_refused_statement_is_not(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        with sa.create_engine("sqlite://").connect() as connection:
            connection.exec_driver_sql("CREATE NONSENSE")

    monkeypatch.setattr(replica._constraints, "drop", refuse)
    with pytest.raises(ConfigurationError, match=r"refused a statement of the worker.*may create and change tables"):
        replica.begin_loading()

    def lock(*_: object) -> None:
        raise exc.InterfaceError("", None, Exception("gone"))

    monkeypatch.setattr(replica._constraints, "drop", lock)
    with pytest.raises(RetriableError, match="replica 'copy': gone"):
        replica.begin_loading()


def test_a_database_that_does_not_answer(layouts: RowLayouts, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="replica 'copy'"):
        Replica("shop", "copy", ReplicaSettings(url=f"sqlite:///{tmp_path}/no/such.db"), layouts)
