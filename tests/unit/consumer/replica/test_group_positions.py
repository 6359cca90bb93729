"""The workers of a group swap the positions of their partitions, and one that finds another position writes nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.replica.group_positions import GroupPositions, join_group, read_known_ms
from rowcast.consumer.replica.positions import (
    GROUP_OWNER,
    Positions,
    ReplicaChangedError,
    read_positions,
    read_row,
    read_topic_ids,
    take_over,
)
from rowcast.shared.errors import DataError, FencedError
from support.memory_replica import MemoryReplica, memory_replica

A, B = ("a", 0), ("a", 1)


def run(positions: Mapping[Partition, Position], **known_ms: int) -> Run:
    return Run([Transaction(None, 0, 0, [], dict(positions), by_key=True, known_ms={A: known_ms.get("known_ms", 7)})])


def joined(replica: MemoryReplica, counts: Mapping[str, int], held: Mapping[Partition, Position]) -> GroupPositions:
    with replica.connection.begin():
        row = join_group(replica.connection, "shop", counts)
    return GroupPositions("shop", row.epoch, replica.dialect, {"a": "id-of-a"}, held)


def apply(own: Positions, replica: MemoryReplica, run: Run) -> None:
    with own.applying(replica.connection, run, None):
        pass


def test_each_partition_has_a_position_once_the_group_has_the_replica() -> None:
    with memory_replica() as replica, replica.connection.begin():
        row = join_group(replica.connection, "shop", {"a": 2})
        assert (row.owner, row.epoch) == (GROUP_OWNER, 2)
        assert join_group(replica.connection, "shop", {"a": 2, "b": 1}).epoch == 2
        stored = read_positions(replica.connection, "shop")
        assert stored == dict.fromkeys([A, B, ("b", 0)], Position(0, 0))
        with pytest.raises(DataError, match="topic a has 3 partitions now, and had 2 before"):
            join_group(replica.connection, "shop", {"a": 3})


def test_partitions_from_before_the_group_are_no_added_partitions() -> None:
    with memory_replica() as replica:
        replica.positions.change_state(replica.connection, "consistent")
        with replica.positions.applying(replica.connection, run({A: Position(5, 50)}), None):
            pass
        with replica.connection.begin():
            join_group(replica.connection, "shop", {"a": 2})
            stored = read_positions(replica.connection, "shop")
            assert stored == {A: Position(5, 50), B: Position(0, 0)}
            # A consistent replica knows all deletes of the transactions that were applied.
            assert read_known_ms(replica.connection, "shop") == {A: 0, B: 0}


def test_positions_are_swapped_or_nothing_is() -> None:
    with memory_replica() as replica:
        first = joined(replica, {"a": 2}, {A: Position(0, 0), B: Position(0, 0)})
        second = joined(replica, {"a": 2}, {A: Position(0, 0), B: Position(0, 0)})
        apply(first, replica, run({B: Position(3, 30)}))
        with pytest.raises(ReplicaChangedError, match="topic a, partition 1"):
            apply(second, replica, run({A: Position(9, 90), B: Position(9, 90)}))
        with replica.connection.begin(), pytest.raises(ReplicaChangedError):
            second.compare(replica.connection)
        apply(first, replica, run({A: Position(1, 10), B: Position(4, 40)}, known_ms=99))
        with replica.connection.begin():
            first.compare(replica.connection)
            assert read_positions(replica.connection, "shop") == {A: Position(1, 10), B: Position(4, 40)}
            assert read_known_ms(replica.connection, "shop")[A] == 99
            assert read_topic_ids(replica.connection, "shop") == {"a": "id-of-a"}


def test_a_position_of_another_topic_with_the_name_is_not_moved() -> None:
    with memory_replica() as replica:
        own = joined(replica, {"a": 1}, {A: Position(0, 0)})
        replica.execute("UPDATE rowcast_position SET topic_id = 'another'")
        with pytest.raises(ReplicaChangedError):
            apply(own, replica, run({A: Position(1, 1)}))


def test_a_worker_never_moves_a_partition_that_it_does_not_have() -> None:
    with memory_replica() as replica:
        own = joined(replica, {"a": 2}, {A: Position(0, 0)})
        with pytest.raises(ReplicaChangedError):
            apply(own, replica, run({B: Position(1, 1)}))


def test_a_rolled_back_transaction_leaves_the_positions() -> None:
    with memory_replica() as replica:
        own = joined(replica, {"a": 1}, {A: Position(0, 0)})
        with pytest.raises(RuntimeError), own.applying(replica.connection, run({A: Position(1, 1)}), None):
            raise RuntimeError
        apply(own, replica, run({A: Position(1, 1)}))


def test_a_single_worker_fences_the_group_and_the_replica_loads() -> None:
    with memory_replica() as replica:
        own = joined(replica, {"a": 2}, {A: Position(0, 0), B: Position(0, 0)})
        apply(own, replica, run({A: Position(1, 10)}, known_ms=5))
        own.change_state(replica.connection, "following")
        with replica.connection.begin():
            row = take_over(replica.connection, "shop", "alone")
        assert (row.epoch, row.state, row.tx, row.deletes_known_ms) == (3, "loading", None, 5)
        with pytest.raises(FencedError):
            apply(own, replica, run({A: Position(2, 20)}))
        with pytest.raises(FencedError):
            own.change_state(replica.connection, "following")
        with pytest.raises(FencedError):
            own.write_timeline(replica.connection, 2)
        with replica.connection.begin():
            found = read_row(replica.connection, "shop")
        assert found is not None
        assert (found.state, found.timeline) == ("loading", row.timeline)
