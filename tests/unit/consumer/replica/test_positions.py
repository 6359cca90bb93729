"""The epoch lets a single worker write, and positions are written with the rows."""

from __future__ import annotations

import pytest

from rowcast.consumer.events.position import Position
from rowcast.consumer.replica.positions import (
    LastApplied,
    Positions,
    ReplicaChangedError,
    read_positions,
    read_row,
    take_over,
)
from rowcast.shared.errors import FencedError
from support.memory_replica import memory_replica


def test_each_worker_that_takes_over_adds_one_to_the_epoch() -> None:
    with memory_replica() as replica, replica.connection.begin():
        row = take_over(replica.connection, "shop", "second")
        assert (row.owner, row.epoch, row.state, row.lsn) == ("second", 2, "loading", 0)
        assert take_over(replica.connection, "other", "first").epoch == 1
        assert read_row(replica.connection, "nowhere") is None


def test_an_earlier_worker_is_fenced() -> None:
    with memory_replica() as replica:
        own, connection = replica.positions, replica.connection
        with own.transaction(connection):
            pass
        with connection.begin():
            row = take_over(connection, "shop", "second")
        message = "another worker has taken over the replica of source 'shop'"
        with pytest.raises(FencedError, match=message), own.transaction(connection):
            raise AssertionError("a fenced worker reached its rows")
        with pytest.raises(FencedError):
            own.change_state(connection, "consistent")
        with connection.begin(), pytest.raises(FencedError):
            own.compare(connection)
        Positions("shop", 2, row.stamp, replica.dialect).change_state(connection, "consistent")
        with connection.begin():
            found = read_row(connection, "shop")
        assert found is not None
        assert found.state == "consistent"


def test_the_last_transaction_and_the_positions_are_recorded() -> None:
    first = {("a", 0): Position(5, 50), ("b", 3): Position(7, 70)}
    with memory_replica() as replica:
        with replica.positions.transaction(replica.connection, LastApplied(9, "701", 1234)):
            replica.positions.finish(replica.connection, first)
            replica.positions.finish(replica.connection, {("a", 0): Position(6, 60)})
            replica.positions.finish(replica.connection, {})
        with replica.connection.begin():
            row = read_row(replica.connection, "shop")
            assert row is not None
            assert (row.lsn, row.tx, row.ts_ms) == (9, "701", 1234)
            assert read_positions(replica.connection, "shop") == first | {("a", 0): Position(6, 60)}
            assert read_positions(replica.connection, "other") == {}


CHANGES = {
    "a state of before": "UPDATE rowcast_replica SET stamp = stamp - 1",
    "a state of after, because the answer to a COMMIT was lost": "UPDATE rowcast_replica SET stamp = stamp + 1",
    "an earlier epoch": "UPDATE rowcast_replica SET epoch = epoch - 1",
    "the same epoch of another worker": "UPDATE rowcast_replica SET stamp = 1",
    "no row": "DELETE FROM rowcast_replica",
    "no table": "DROP TABLE rowcast_replica",
    "a table of an earlier version": "ALTER TABLE rowcast_replica DROP COLUMN stamp",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_replica_that_was_changed_from_outside_is_noticed_before_any_row(change: str) -> None:
    with memory_replica() as replica:
        own, connection = replica.positions, replica.connection
        for _ in range(3):
            with own.transaction(connection):
                pass
        with connection.begin():
            own.compare(connection)
        replica.execute(CHANGES[change])
        with (
            connection.begin(),
            pytest.raises(ReplicaChangedError, match="source 'shop' is not as this worker left it"),
        ):
            own.compare(connection)
        with pytest.raises(ReplicaChangedError), own.transaction(connection):
            raise AssertionError("the worker reached its rows")


def test_a_rolled_back_transaction_changes_no_stamp() -> None:
    with memory_replica() as replica:
        with pytest.raises(RuntimeError), replica.positions.transaction(replica.connection):
            raise RuntimeError
        with replica.positions.transaction(replica.connection):
            pass


def test_each_takeover_writes_another_stamp() -> None:
    with memory_replica() as replica, replica.connection.begin():
        stamps = {take_over(replica.connection, "shop", "worker").stamp for _ in range(5)}
        assert len(stamps) == 5
