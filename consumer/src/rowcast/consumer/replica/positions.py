"""The replica's owner and positions.

Positions are written in the transaction of the applied events. The row of ``rowcast_replica`` lets only a single worker
write. Each worker increases ``epoch`` when taking over, and every transaction first compares the epoch. After a
takeover, the comparison fails for the earlier worker and the transaction rolls back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.events.position import Partition, Position, ReplicaState
from rowcast.consumer.replica.dialects import ReplicaDialect
from rowcast.consumer.replica.worker_tables import ROWCAST_POSITION, ROWCAST_REPLICA, select_rows
from rowcast.shared.errors import FencedError


class LastApplied(NamedTuple):
    """The transaction applied last: lsn, id, and the primary's time in milliseconds."""

    lsn: int
    tx: str | None
    ts_ms: int


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """The row of ``rowcast_replica``. ``lsn``, ``tx`` and ``ts_ms`` are those of the transaction applied last.

    ``reason``: why the replica cannot vouch for its rows, or is not followed any further, since ``since_ms``. None if
    nothing is wrong. ``timeline``: the source's timeline that the rows come from.
    """

    owner: str
    epoch: int
    state: ReplicaState
    lsn: int
    tx: str | None
    ts_ms: int
    reason: str | None
    since_ms: int
    timeline: int


def read_row(connection: Connection, source: str) -> ReplicaRow | None:
    """Return the replica's row, or None if no worker has ever run for this source."""
    query = select_rows(connection, ROWCAST_REPLICA).where(ROWCAST_REPLICA.c.source == source)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return ReplicaRow(
        row.owner, row.epoch, row.state, row.lsn, row.tx, row.ts_ms, row.reason, row.since_ms, row.timeline
    )


def read_positions(connection: Connection, source: str) -> dict[Partition, Position]:
    """Return the positions of all partitions from which events have been applied."""
    rows = connection.execute(select_rows(connection, ROWCAST_POSITION).where(ROWCAST_POSITION.c.source == source))
    return {(r.topic, r.partition): Position(r.next_offset, r.lsn) for r in rows}


def take_over(connection: Connection, source: str, owner: str) -> ReplicaRow:
    """Make ``owner`` the only worker, and fence every earlier one. The caller ends the transaction."""
    updated = connection.execute(
        sa.update(ROWCAST_REPLICA)
        .where(ROWCAST_REPLICA.c.source == source)
        .values(owner=owner, epoch=ROWCAST_REPLICA.c.epoch + 1)
    )
    if updated.rowcount == 0:
        connection.execute(
            sa.insert(ROWCAST_REPLICA).values(
                source=source, owner=owner, epoch=1, state="loading", lsn=0, tx=None, ts_ms=0
            )
        )
    row = read_row(connection, source)
    assert row is not None
    return row


class Positions:
    """Write the positions on behalf of a worker, under the worker's epoch."""

    def __init__(self, source: str, epoch: int, replica: ReplicaDialect) -> None:
        self._source = source
        self._epoch = epoch
        self._replica = replica

    def check_epoch(self, connection: Connection, applied: LastApplied | None = None) -> None:
        """Compare the epoch and record the transaction applied last. The row stays locked until the transaction ends.

        Raise FencedError if another worker has taken over.
        """
        parameters = {"s": self._source, "e": self._epoch}
        if applied is None:
            updated = connection.execute(_CHECK_EPOCH, parameters)
        else:
            parameters |= {"l": applied.lsn, "t": applied.tx, "m": applied.ts_ms}
            updated = connection.execute(_CHECK_EPOCH_AND_RECORD, parameters)
        if updated.rowcount != 1:
            raise FencedError(
                f"another worker has taken over the replica of source {self._source!r}. "
                "This worker's transaction is rolled back"
            )

    def change_state(self, connection: Connection, state: ReplicaState) -> None:
        """Write the replica's state. Raise FencedError if another worker has taken over."""
        self.check_epoch(connection)
        connection.execute(
            sa.update(ROWCAST_REPLICA).where(ROWCAST_REPLICA.c.source == self._source).values(state=state)
        )

    def write(self, connection: Connection, positions: Mapping[Partition, Position]) -> None:
        """Write the positions after applying events. Call ``check_epoch`` first, in the same transaction."""
        if positions:
            rows = [(self._source, *partition, *position) for partition, position in positions.items()]
            self._replica.write_positions(connection, rows)


# Built once, because they run in every transaction.
_OWN_ROW = (ROWCAST_REPLICA.c.source == sa.bindparam("s")) & (ROWCAST_REPLICA.c.epoch == sa.bindparam("e"))
_CHECK_EPOCH = sa.update(ROWCAST_REPLICA).where(_OWN_ROW).values(epoch=ROWCAST_REPLICA.c.epoch)
_CHECK_EPOCH_AND_RECORD = (
    sa.update(ROWCAST_REPLICA)
    .where(_OWN_ROW)
    .values(lsn=sa.bindparam("l"), tx=sa.bindparam("t"), ts_ms=sa.bindparam("m"))
)
