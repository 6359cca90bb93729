"""The worker's tables of an earlier version get the columns that they lack, and can be read before that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from rowcast.consumer.events.position import Position
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.positions import read_positions, read_row, take_over
from rowcast.consumer.replica.worker_tables import METADATA, create_tables, missing_columns
from rowcast.shared.database.engines import open_engine
from support.old_replica import OLD_METADATA, create_old_tables

SQLITE = replica_dialect("sqlite")


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    engine = open_engine("sqlite://", "replica")
    yield engine
    engine.dispose()


def test_missing_columns_are_added_and_the_rows_stay(engine: sa.Engine) -> None:
    create_old_tables(engine, "shop")
    assert missing_columns(engine)
    create_tables(engine, SQLITE)
    assert missing_columns(engine) == {}
    create_tables(engine, SQLITE)
    with engine.begin() as connection:
        row = take_over(connection, "shop", "new")
        assert (row.owner, row.epoch, row.state, row.lsn) == ("new", 4, "consistent", 7)
        assert (row.reason, row.since_ms, row.timeline) == (None, 0, 1)


def test_old_tables_are_read_as_they_will_be_after_the_upgrade(engine: sa.Engine) -> None:
    create_old_tables(engine, "shop")
    with engine.connect() as connection:
        before = read_row(connection, "shop"), read_positions(connection, "shop")
    create_tables(engine, SQLITE)
    with engine.connect() as connection:
        assert before == (read_row(connection, "shop"), read_positions(connection, "shop"))
    assert before[1] == {("shop.public.a", 0): Position(2, 7)}


def test_every_column_since_the_first_version_can_be_added(engine: sa.Engine) -> None:
    for table in METADATA.sorted_tables:
        if table.name not in OLD_METADATA.tables:
            continue
        old = OLD_METADATA.tables[table.name]
        added = [column for column in table.columns if column.name not in old.columns]
        assert all(column.nullable or column.server_default is not None for column in added)
        assert not any(column.primary_key for column in added)


def test_a_new_replica_lacks_no_column(engine: sa.Engine) -> None:
    create_tables(engine, SQLITE)
    assert missing_columns(engine) == {}
