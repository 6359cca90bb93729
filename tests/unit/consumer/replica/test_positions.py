"""The epoch lets a single worker write, and positions are written with the rows."""

from __future__ import annotations

import pytest

from rowcast.consumer.events.position import Position
from rowcast.consumer.replica.positions import LastApplied, Positions, read_positions, read_row, take_over
from rowcast.shared.errors import FencedError
from support.memory_replica import memory_replica


def test_each_worker_that_takes_over_adds_one_to_the_epoch() -> None:
    with memory_replica() as replica, replica.connection.begin():
        row = take_over(replica.connection, "shop", "second")
        assert (row.owner, row.epoch, row.state, row.lsn) == ("second", 2, "loading", 0)
        assert take_over(replica.connection, "other", "first").epoch == 1
        assert read_row(replica.connection, "nowhere") is None


def test_an_earlier_worker_is_fenced() -> None:
    with memory_replica() as replica, replica.connection.begin():
        replica.positions.check_epoch(replica.connection)
        take_over(replica.connection, "shop", "second")
        with pytest.raises(FencedError, match="another worker has taken over the replica of source 'shop'"):
            replica.positions.check_epoch(replica.connection)
        with pytest.raises(FencedError):
            replica.positions.change_state(replica.connection, "consistent")
        Positions("shop", 2, replica.dialect).change_state(replica.connection, "consistent")
        row = read_row(replica.connection, "shop")
        assert row is not None
        assert row.state == "consistent"


def test_the_last_transaction_and_the_positions_are_recorded() -> None:
    first = {("a", 0): Position(5, 50), ("b", 3): Position(7, 70)}
    with memory_replica() as replica, replica.connection.begin():
        replica.positions.check_epoch(replica.connection, LastApplied(9, "701", 1234))
        replica.positions.write(replica.connection, first)
        replica.positions.write(replica.connection, {("a", 0): Position(6, 60)})
        replica.positions.write(replica.connection, {})
        row = read_row(replica.connection, "shop")
        assert row is not None
        assert (row.lsn, row.tx, row.ts_ms) == (9, "701", 1234)
        assert read_positions(replica.connection, "shop") == first | {("a", 0): Position(6, 60)}
        assert read_positions(replica.connection, "other") == {}
