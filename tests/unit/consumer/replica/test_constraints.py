"""Constraints are created when a replica becomes consistent, and dropped while it loads."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from support.kafka_source import column, shape
from support.memory_replica import MemoryReplica, memory_replica

CITY = shape("city", column("name", "text"), unique=[("name",)])
HOUSE = shape("house", column("city_id"), refers=[("city_id", "city")])


def indexes(replica: MemoryReplica, table: str) -> list[tuple[list[str | None], bool]]:
    with replica.connection.begin():
        return [(i["column_names"], bool(i["unique"])) for i in sa.inspect(replica.connection).get_indexes(table)]


def test_unique_keys_are_created_and_dropped_and_other_indexes_stay() -> None:
    with memory_replica(CITY, HOUSE) as replica:
        for _ in range(2):
            assert replica.constraints.create(replica.connection)
            assert indexes(replica, "city") == [(["name"], True)]
            assert replica.tables.table("public.city").other_unique
            replica.constraints.drop(replica.connection)
            assert indexes(replica, "city") == []
            assert indexes(replica, "house") == [(["city_id"], False)]
            assert not replica.tables.table("public.city").other_unique


def test_constraints_that_exist_are_not_created_again() -> None:
    with memory_replica(CITY, HOUSE) as replica:
        assert replica.constraints.create(replica.connection)
        assert replica.constraints.create(replica.connection)
        assert len(indexes(replica, "city")) == 1


def test_rows_that_violate_a_unique_key_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with memory_replica(CITY) as replica:
        replica.execute("INSERT INTO city (id, name) VALUES (1, 'a'), (2, 'a')")
        assert not replica.constraints.create(replica.connection)
        assert "table public.city: unique key (name) cannot be created" in caplog.text
        replica.execute("DELETE FROM city WHERE id = 2")
        assert replica.constraints.create(replica.connection)


def test_rows_that_violate_a_foreign_key_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with memory_replica(CITY, HOUSE) as replica:
        replica.execute("INSERT INTO house (id, city_id) VALUES (1, 7), (2, 8)")
        assert not replica.constraints.create(replica.connection)
        assert "table house: 2 rows refer to rows of city that are missing" in caplog.text


def test_tables_of_the_users_keep_their_constraints() -> None:
    with memory_replica() as replica:
        replica.execute("CREATE TABLE city (id BIGINT PRIMARY KEY, name TEXT)")
        replica.execute("CREATE UNIQUE INDEX rowcast_uq_of_the_user ON city (name)")
        replica.prepare(CITY)
        assert replica.constraints.create(replica.connection)
        replica.constraints.drop(replica.connection)
        assert indexes(replica, "city") == [(["name"], True)]
