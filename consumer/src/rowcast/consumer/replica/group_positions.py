"""The positions of a replica that a group of workers writes, each worker for its own partitions.

Kafka's group says which worker reads a partition. The group may be wrong for a while: a suspended worker wakes up, or
a worker has not heard of a new generation. Therefore each position is swapped: the transaction that applies events
first moves the position from the value that the worker has read. A worker that finds another value there writes no row
and reads the positions again. So every event takes effect once, whatever the group believes.

The row of ``rowcast_replica`` is shared. A worker of the group compares the epoch under a shared lock, and a worker
that wants the replica for itself increases the epoch (``positions.take_over``), which fences the whole group.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.events.added_partitions import partitions_added
from rowcast.consumer.events.position import Partition, Position, StoredState
from rowcast.consumer.events.transactions import Run
from rowcast.consumer.replica.dialects import ReplicaDialect
from rowcast.consumer.replica.positions import (
    GROUP_OWNER,
    LastApplied,
    Positions,
    ReplicaChangedError,
    ReplicaRow,
    read_positions,
    read_row,
    take_over,
)
from rowcast.consumer.replica.worker_tables import ROWCAST_POSITION, ROWCAST_REPLICA
from rowcast.shared.errors import FencedError

_PLACE, _ROW = ROWCAST_POSITION.c, ROWCAST_REPLICA.c


def join_group(connection: Connection, source: str, counts: Mapping[str, int]) -> ReplicaRow:
    """Give the replica to the group, unless the group has it, and each partition a position.

    ``counts``: the number of partitions of each topic. The caller holds the claim and ends the transaction. Raise
    DataError if a topic has got more partitions since the group began to read it.
    """
    row, known = read_row(connection, source), read_positions(connection, source)
    was_joined = row is not None and row.owner == GROUP_OWNER
    if not was_joined:
        known_ms = int(time.time() * 1000) if row is None or not known else _known_ms(row)
        take_over(connection, source, GROUP_OWNER)
        connection.execute(sa.update(ROWCAST_POSITION).where(_PLACE.source == source).values(known_ms=known_ms))
    for topic, count in counts.items():
        numbers = {number for name, number in known if name == topic}
        if was_joined and numbers and len(numbers) < count:
            raise partitions_added(topic, len(numbers), count)
        # A topic of which nothing was applied is read from its start.
        new_ms = known_ms if not was_joined and numbers else int(time.time() * 1000)
        new = [
            {"source": source, "topic": topic, "partition": number, "next_offset": 0, "lsn": 0, "known_ms": new_ms}
            for number in sorted(set(range(count)) - numbers)
        ]
        if new:
            connection.execute(sa.insert(ROWCAST_POSITION), new)
    joined = read_row(connection, source)
    assert joined is not None
    return joined


def _known_ms(row: ReplicaRow) -> int:
    """Return the time before which a replica of a single worker knows all deletes."""
    return row.ts_ms if row.state == "consistent" else row.deletes_known_ms


def read_known_ms(connection: Connection, source: str) -> dict[Partition, int]:
    """Return the time before which the replica knows all deletes, for each partition of a group."""
    rows = connection.execute(sa.select(_PLACE.topic, _PLACE.partition, _PLACE.known_ms).where(_PLACE.source == source))
    return {(row.topic, row.partition): row.known_ms for row in rows}


class GroupPositions(Positions):
    """Write positions on behalf of one worker of the group. ``held``: the positions of the worker's partitions."""

    def __init__(
        self,
        source: str,
        epoch: int,
        replica: ReplicaDialect,
        topic_ids: Mapping[str, str],
        held: Mapping[Partition, Position],
    ) -> None:
        super().__init__(source, epoch, 0, replica, topic_ids)
        self._held = dict(held)

    @contextmanager
    def transaction(
        self, connection: Connection, applied: LastApplied | None = None, *, defer_foreign_keys: bool = False
    ) -> Iterator[None]:
        """Run the block in a transaction of a replica that the group has. Raise FencedError.

        Other workers of the group have transactions too. The claim keeps them from changing tables.
        """
        with connection.begin():
            self._require_epoch(connection)
            yield

    @contextmanager
    def applying(self, connection: Connection, run: Run, applied: LastApplied | None) -> Iterator[None]:
        """Run the block that writes the rows of a run, in a transaction that first swaps the run's positions.

        Raise FencedError if the group has lost the replica. Raise ReplicaChangedError if another worker has moved a
        position.
        """
        positions = run.positions()
        with connection.begin():
            self._require_epoch(connection)
            # First, because a worker that has lost a partition must write nothing and wait for no lock of a row.
            self._swap(connection, positions, run.known_ms())
            self._replica.defer_foreign_keys(connection)
            yield
        # Unchanged after an error. If the transaction was committed all the same, the next swap fails.
        self._held |= positions

    def compare(self, connection: Connection) -> None:
        """Compare epoch and positions without writing. Raise as ``applying``."""
        self._require_epoch(connection)
        stored = read_positions(connection, self._source)
        for partition, position in self._held.items():
            if stored.get(partition) != position:
                raise self._moved(partition)

    def change_state(self, connection: Connection, state: StoredState, deletes_known_ms: int = 0) -> None:
        """Write the replica's state in a transaction of its own. Raise FencedError."""
        self._update_row(connection, {"state": state, "deletes_known_ms": deletes_known_ms})

    def write_timeline(self, connection: Connection, timeline: int) -> None:
        """Write the timeline of the rows, in a transaction of its own. Raise FencedError."""
        self._update_row(connection, {"timeline": timeline})

    def _update_row(self, connection: Connection, values: Mapping[str, object]) -> None:
        """Change the replica's row. Two workers that shared the row before would wait for each other."""
        own = (_ROW.source == self._source) & (_ROW.epoch == self._epoch)
        with connection.begin():
            if connection.execute(sa.update(ROWCAST_REPLICA).where(own).values(values)).rowcount != 1:
                raise self._fenced()

    def _require_epoch(self, connection: Connection) -> None:
        query = sa.select(_ROW.epoch).where(_ROW.source == self._source).with_for_update(read=True)
        with self._missing_table_is_a_change():
            epoch = connection.execute(query).scalar()
        if epoch != self._epoch:
            raise self._fenced()

    def _fenced(self) -> FencedError:
        return FencedError(
            f"the replica of source {self._source!r} belongs to another worker now, or to a command. "
            "This worker's transaction is rolled back"
        )

    def _swap(
        self, connection: Connection, positions: Mapping[Partition, Position], known_ms: Mapping[Partition, int]
    ) -> None:
        # All workers use a single order, because two workers could wait for each other otherwise.
        for partition, new in sorted(positions.items()):
            topic, number = partition
            old = self._held.get(partition)
            if old is None:
                raise self._moved(partition)
            is_old = (
                (_PLACE.source == self._source) & (_PLACE.topic == topic) & (_PLACE.partition == number)
                & (_PLACE.next_offset == old.next_offset) & (_PLACE.lsn == old.lsn)
            )  # fmt: skip
            values: dict[str, object] = {"next_offset": new.next_offset, "lsn": new.lsn}
            if topic_id := self._topic_ids.get(topic):
                is_old &= sa.func.coalesce(_PLACE.topic_id, topic_id) == topic_id
                values["topic_id"] = topic_id
            if partition in known_ms:
                values["known_ms"] = known_ms[partition]
            if connection.execute(sa.update(ROWCAST_POSITION).where(is_old).values(values)).rowcount != 1:
                raise self._moved(partition)

    def _moved(self, partition: Partition) -> ReplicaChangedError:
        topic, number = partition
        return ReplicaChangedError(
            f"the replica's position in topic {topic}, partition {number} is not the one that this worker left: "
            "another worker reads the partition now, or the replica was restored. This worker's transaction is rolled "
            "back"
        )
