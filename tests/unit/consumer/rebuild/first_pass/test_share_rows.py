"""The rows of the shares hold the division, and the fresh tables get all positions at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.events.position import Position
from rowcast.consumer.rebuild.first_pass.share_rows import ShareRows, discard_shares
from rowcast.consumer.replica.dialects.naming import share_source
from rowcast.consumer.replica.part import is_divided
from rowcast.consumer.replica.positions import ReplicaRow, read_positions, read_row, take_over, take_over_share
from rowcast.consumer.replica.worker_tables import METADATA, ROWCAST_POSITION, ROWCAST_REPLICA
from rowcast.shared.errors import FencedError

FRESH, FIRST, SECOND = "shop+rebuild", "shop+rebuild+1", "shop+rebuild+2"
ROWS = ShareRows(FRESH)


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = sa.create_engine("sqlite://")
    METADATA.create_all(engine)
    with engine.begin() as connection:
        yield connection


@pytest.fixture
def row(connection: Connection) -> ReplicaRow:
    """Divide a topic and a half."""
    row = take_over(connection, FRESH, "rebuild")
    ROWS.write(connection, [{("a", 0): 5, ("b", 0): 0}, {("a", 1): 7}], row, timeline=3)
    return row


def _apply(connection: Connection, source: str, lsn: int, topic: str, number: int, next_offset: int) -> None:
    place = ROWCAST_POSITION.c
    is_place = (place.source == source) & (place.topic == topic) & (place.partition == number)
    connection.execute(sa.update(ROWCAST_POSITION).where(is_place).values(next_offset=next_offset, lsn=lsn))
    is_row = ROWCAST_REPLICA.c.source == source
    connection.execute(sa.update(ROWCAST_REPLICA).where(is_row).values(lsn=lsn, tx=f"{lsn}", ts_ms=lsn))


def test_the_division_is_read_again(connection: Connection, row: ReplicaRow) -> None:
    assert is_divided(connection, FRESH)
    assert ROWS.read(connection) == {
        FIRST: {("a", 0): Position(5, 0), ("b", 0): Position(0, 0)},
        SECOND: {("a", 1): Position(7, 0)},
    }
    share = read_row(connection, FIRST)
    assert share is not None
    assert (share.epoch, share.timeline, share.deletes_known_ms) == (row.epoch, 3, row.deletes_known_ms)


def test_the_fresh_tables_get_all_positions_and_the_last_transaction(connection: Connection, row: ReplicaRow) -> None:
    _apply(connection, FIRST, 90, "a", 0, 50)
    _apply(connection, SECOND, 80, "a", 1, 60)
    ROWS.collect(connection)
    assert not is_divided(connection, FRESH)
    assert read_positions(connection, FRESH) == {
        ("a", 0): Position(50, 90),
        ("a", 1): Position(60, 80),
        ("b", 0): Position(0, 0),
    }
    fresh = read_row(connection, FRESH)
    assert fresh is not None
    assert (fresh.lsn, fresh.tx, fresh.ts_ms, fresh.state) == (90, "90", 90, "loading")


def test_a_topic_that_begins_again_is_in_one_share(connection: Connection, row: ReplicaRow) -> None:
    _apply(connection, FIRST, 90, "a", 0, 50)
    ROWS.begin_again(connection, {("a", 0): 5, ("a", 1): 7, ("a", 2): 0})
    found = ROWS.read(connection)
    assert found == {
        FIRST: {("b", 0): Position(0, 0)},
        SECOND: {("a", 0): Position(5, 0), ("a", 1): Position(7, 0), ("a", 2): Position(0, 0)},
    }


def test_a_process_of_an_earlier_division_is_fenced(connection: Connection, row: ReplicaRow) -> None:
    assert take_over_share(connection, FIRST, "process", row.epoch).epoch == row.epoch
    ROWS.adopt(connection, row.epoch + 1)
    with pytest.raises(FencedError, match="later rebuild"):
        take_over_share(connection, FIRST, "process", row.epoch)
    discard_shares(connection, FRESH)
    assert not is_divided(connection, FRESH)
    with pytest.raises(FencedError, match="later rebuild"):
        take_over_share(connection, FIRST, "process", row.epoch + 1)
    assert read_row(connection, FRESH) is not None


def test_the_names_of_shares_fit_into_the_column() -> None:
    assert share_source(FRESH, 2) == SECOND
    assert len(share_source("s" * 100, 64)) <= 100
