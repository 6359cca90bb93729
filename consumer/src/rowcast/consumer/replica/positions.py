"""The replica's owner and positions.

Positions are written in the transaction of the applied events. The row of ``rowcast_replica`` lets only a single worker
write. Each worker increases ``epoch`` when taking over, and every transaction first compares the epoch. After a
takeover, the comparison fails for the earlier worker and the transaction rolls back.

The UPDATE of the epoch also swaps ``stamp``. The worker that takes over writes a random stamp, and each transaction
adds 1. A replica that has lost transactions in a failover, was restored from a backup, or holds a transaction whose
COMMIT was not answered has an unexpected stamp. The positions in the replica count then, and the worker starts again
from the stored positions.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.consumer.events.dead_letter import LetterEvent, RowKey
from rowcast.consumer.events.position import Partition, Position, StoredState
from rowcast.consumer.events.transactions import Run
from rowcast.consumer.replica.dialects import Fault, ReplicaDialect
from rowcast.consumer.replica.letter_rows import add_letters, blocked_keys, remove_letters
from rowcast.consumer.replica.worker_tables import MAX_REASON, ROWCAST_POSITION, ROWCAST_REPLICA, select_rows
from rowcast.shared.errors import FencedError, RowcastError

# The stamp stays below 2^63, however many transactions add 1.
_STAMPS = 2**62

GROUP_OWNER = "a group of workers"
"""The owner of a replica that several workers write, each for its partitions (``group_positions``)."""


class ReplicaChangedError(RowcastError):
    """The replica has changed since the worker's last transaction, although no worker has taken over."""


class LastApplied(NamedTuple):
    """The transaction applied last: lsn, id, and the primary's time in milliseconds."""

    lsn: int
    tx: str | None
    ts_ms: int


class Verified(NamedTuple):
    """A comparison of all tables with the primary: the time, the verdict, compared rows, and differing rows."""

    at_ms: int
    verdict: str
    rows: int
    differing: int


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """The row of ``rowcast_replica``. ``lsn``, ``tx`` and ``ts_ms`` belong to the transaction applied last.

    ``reason``: why the replica cannot vouch for its rows, or is not followed any further, since ``since_ms``. None if
    nothing is wrong. ``timeline``: the source's timeline of the rows, or 0 before the first rows. ``stamp``: the number
    changed by every transaction of a worker. ``deletes_known_ms``: the loading replica knows all deletes before this
    time, 0 if the time is not known. ``first_lsn``: events with a smaller lsn are left out. ``verified``: the last
    comparison with the primary, or None.
    """

    owner: str
    epoch: int
    state: StoredState
    lsn: int
    tx: str | None
    ts_ms: int
    reason: str | None
    since_ms: int
    timeline: int
    stamp: int
    deletes_known_ms: int
    first_lsn: int = 0
    verified: Verified | None = None


def read_row(connection: Connection, source: str) -> ReplicaRow | None:
    """Return the replica's row, or None if no worker has ever run for this source."""
    query = select_rows(connection, ROWCAST_REPLICA).where(ROWCAST_REPLICA.c.source == source)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return ReplicaRow(
        row.owner, row.epoch, row.state, row.lsn, row.tx, row.ts_ms, row.reason, row.since_ms, row.timeline, row.stamp,
        row.deletes_known_ms, row.first_lsn, _verified(row),
    )  # fmt: skip


def _verified(row: Any) -> Verified | None:
    if row.verified is None:
        return None
    return Verified(row.verified_ms, row.verified, row.verified_rows, row.verified_differing)


def record_verified(connection: Connection, source: str, verified: Verified) -> None:
    """Write the result of a comparison. Any process may write, because no worker depends on the result."""
    values = {
        "verified_ms": verified.at_ms,
        "verified": verified.verdict,
        "verified_rows": verified.rows,
        "verified_differing": verified.differing,
    }
    connection.execute(sa.update(ROWCAST_REPLICA).where(ROWCAST_REPLICA.c.source == source).values(values))


def mark_suspect(connection: Connection, source: str, reason: str) -> None:
    """Record that the rows are no state of the source. Only for tables without a worker."""
    values = {"state": "suspect", "reason": reason[:MAX_REASON], "since_ms": time.time_ns() // 1_000_000}
    connection.execute(sa.update(ROWCAST_REPLICA).where(ROWCAST_REPLICA.c.source == source).values(values))


def read_positions(connection: Connection, source: str) -> dict[Partition, Position]:
    """Return the positions of all partitions from which events have been applied."""
    rows = connection.execute(select_rows(connection, ROWCAST_POSITION).where(ROWCAST_POSITION.c.source == source))
    return {(r.topic, r.partition): Position(r.next_offset, r.lsn) for r in rows}


def read_topic_ids(connection: Connection, source: str) -> dict[str, str]:
    """Return the id of each topic with positions. A topic with an unknown id is left out."""
    query = select_rows(connection, ROWCAST_POSITION).where(ROWCAST_POSITION.c.source == source)
    return {row.topic: row.topic_id for row in connection.execute(query) if row.topic_id is not None}


def register(connection: Connection, source: str, owner: str) -> None:
    """Insert the row of a replica that nothing can be applied to yet, unless the row exists."""
    if read_row(connection, source) is None:
        # Another waiting worker may insert the row at the same time.
        with suppress(exc.IntegrityError), connection.begin_nested():
            _insert(connection, source, owner, epoch=0, stamp=0)


def register_from(connection: Connection, source: str, owner: str, first_lsn: int) -> None:
    """Insert the row of a replica that leaves out the events before ``first_lsn``."""
    register(connection, source, owner)
    row = ROWCAST_REPLICA.c.source == source
    connection.execute(sa.update(ROWCAST_REPLICA).where(row).values(first_lsn=first_lsn))


def _insert(connection: Connection, source: str, owner: str, epoch: int, stamp: int) -> None:
    connection.execute(
        sa.insert(ROWCAST_REPLICA).values(
            source=source, owner=owner, epoch=epoch, state="loading", lsn=0, tx=None, ts_ms=0, stamp=stamp, timeline=0
        )
    )


def take_over_share(connection: Connection, source: str, owner: str, epoch: int) -> ReplicaRow:
    """Make ``owner`` the worker of a share, under the epoch of the division. The caller ends the transaction.

    Raise FencedError if the load was divided again or has ended.
    """
    row = ROWCAST_REPLICA.c
    is_own = (row.source == source) & (row.epoch == epoch)
    values = {"owner": owner, "stamp": secrets.randbelow(_STAMPS)}
    if connection.execute(sa.update(ROWCAST_REPLICA).where(is_own).values(values)).rowcount != 1:
        raise FencedError(
            f"the rows of {source!r} in rowcast_replica belong to a later rebuild, or are gone. Only the later rebuild "
            "goes on"
        )
    found = read_row(connection, source)
    assert found is not None
    return found


def take_over(connection: Connection, source: str, owner: str) -> ReplicaRow:
    """Make ``owner`` the only worker, and fence every earlier one. The caller ends the transaction."""
    stamp = secrets.randbelow(_STAMPS)
    is_of_source = ROWCAST_REPLICA.c.source == source
    if owner != GROUP_OWNER:
        _dissolve_group(connection, source)
    updated = connection.execute(
        sa.update(ROWCAST_REPLICA)
        .where(is_of_source)
        .values(owner=owner, epoch=ROWCAST_REPLICA.c.epoch + 1, stamp=stamp)
    )
    if updated.rowcount == 0:
        _insert(connection, source, owner, epoch=1, stamp=stamp)
    if not read_positions(connection, source):
        # The load begins now, and reads every row or its delete.
        known_ms = int(time.time() * 1000)
        connection.execute(sa.update(ROWCAST_REPLICA).where(is_of_source).values(deletes_known_ms=known_ms))
    row = read_row(connection, source)
    assert row is not None
    return row


def _dissolve_group(connection: Connection, source: str) -> None:
    """Let a group's replica load again, because the partitions were applied to different lsns."""
    row, place = ROWCAST_REPLICA.c, ROWCAST_POSITION.c
    known_ms = sa.select(sa.func.coalesce(sa.func.min(place.known_ms), 0)).where(place.source == source)
    of_group = (row.source == source) & (row.owner == GROUP_OWNER)
    connection.execute(
        sa.update(ROWCAST_REPLICA).where(of_group).values(tx=None, deletes_known_ms=known_ms.scalar_subquery())
    )
    followed = of_group & (row.state == "following")
    connection.execute(sa.update(ROWCAST_REPLICA).where(followed).values(state="loading"))


class Positions:
    """Write the positions on behalf of a worker, under the worker's epoch and stamp.

    ``topic_ids``: the ids of the topics. The reader adds new ids.
    """

    def __init__(
        self, source: str, epoch: int, stamp: int, replica: ReplicaDialect, topic_ids: Mapping[str, str] | None = None
    ) -> None:
        self._topic_ids = {} if topic_ids is None else topic_ids
        self._source = source
        self._epoch = epoch
        self._stamp = stamp
        self._replica = replica

    @contextmanager
    def transaction(
        self, connection: Connection, applied: LastApplied | None = None, *, defer_foreign_keys: bool = False
    ) -> Iterator[None]:
        """Run the block in a transaction, committed only by the owner of an unchanged replica.

        The first statement compares epoch and stamp, and records the transaction applied last. The row of
        ``rowcast_replica`` stays locked until the end. Raise FencedError if another worker has taken over. Raise
        ReplicaChangedError if the replica no longer has this worker's stamp.
        """
        with connection.begin():
            # First, because a fenced worker must write nothing and wait for no lock.
            self._swap_stamp(connection, applied, defer_foreign_keys=defer_foreign_keys)
            yield
        # Unchanged after an error. If the transaction was committed all the same, the next comparison fails.
        self._stamp += 1

    @contextmanager
    def applying(self, connection: Connection, run: Run, applied: LastApplied | None) -> Iterator[None]:
        """Run the block that writes the rows of a run in a ``transaction``, and write the run's positions."""
        with self.transaction(connection, applied, defer_foreign_keys=True):
            yield
            self.finish(connection, run.positions())

    def compare(self, connection: Connection) -> None:
        """Compare epoch and stamp without writing. Raise as ``transaction``."""
        row = self._read_stamp(connection)
        if row is None or row != (self._epoch, self._stamp):
            raise self._refusal(row)

    def change_state(self, connection: Connection, state: StoredState, deletes_known_ms: int = 0) -> None:
        """Write the replica's state in a transaction of its own. Raise as ``transaction``."""
        with self.transaction(connection):
            values = {"state": state, "deletes_known_ms": deletes_known_ms}
            connection.execute(
                sa.update(ROWCAST_REPLICA).where(ROWCAST_REPLICA.c.source == self._source).values(values)
            )

    def lose_consistency(self, connection: Connection) -> None:
        """Write that a consistent replica loads, in a separate transaction. Raise as ``transaction``.

        The replica knows all deletes of the applied transactions.
        """
        with self.transaction(connection):
            row = ROWCAST_REPLICA.c
            values = {"state": "loading", "deletes_known_ms": row.ts_ms}
            connection.execute(sa.update(ROWCAST_REPLICA).where(row.source == self._source).values(values))

    def write_timeline(self, connection: Connection, timeline: int) -> None:
        """Write the timeline of the rows, in a transaction of its own. Raise as ``transaction``."""
        with self.transaction(connection):
            row = ROWCAST_REPLICA.c.source == self._source
            connection.execute(sa.update(ROWCAST_REPLICA).where(row).values(timeline=timeline))

    def record_promotion(self, connection: Connection, state: StoredState, now_ms: int) -> None:
        """Write that the replica is being promoted or is a primary, since now. Raise as ``transaction``.

        The end of a promotion does not depend on the epoch, because a worker may try to take the replica over.
        """
        own = self.transaction(connection) if state == "promoting" else connection.begin()
        with own:
            row = ROWCAST_REPLICA.c.source == self._source
            values = {"state": state, "since_ms": now_ms, "reason": None}
            connection.execute(sa.update(ROWCAST_REPLICA).where(row).values(values))

    def record_stop(self, connection: Connection, reason: str, now_ms: int, *, suspect: bool) -> None:
        """Write why and since when the replica is not followed any further, unless another worker has taken over.

        A repeated stop for the same reason keeps the time. ``suspect``: also change the state, for good.
        """
        row, reason = ROWCAST_REPLICA.c, reason[:MAX_REASON]
        since = sa.case((row.reason == reason, row.since_ms), else_=now_ms)
        values: list[tuple[sa.Column[Any], Any]] = [(row.since_ms, since), (row.reason, reason)]
        if suspect:
            values.append((row.state, "suspect"))
        # MySQL assigns in this order, and the time depends on the reason before.
        statement = sa.update(ROWCAST_REPLICA).where(_OWN_EPOCH).ordered_values(*values)
        connection.execute(statement, {"s": self._source, "e": self._epoch})

    def clear_stop(self, connection: Connection) -> None:
        """Remove what ``record_stop`` wrote, unless another worker has taken over. A suspect replica stays suspect."""
        working = sa.update(ROWCAST_REPLICA).where(_OWN_EPOCH, ROWCAST_REPLICA.c.state != "suspect")
        connection.execute(working.values(reason=None, since_ms=0), {"s": self._source, "e": self._epoch})

    def finish(self, connection: Connection, positions: Mapping[Partition, Position]) -> None:
        """Write the positions, as the last statement of the ``transaction``. The engine may commit at once."""
        if positions:
            ids = self._topic_ids
            rows = [(self._source, *place, *position, ids.get(place[0])) for place, position in positions.items()]
            self._replica.finish(connection, rows)

    def write_letters(
        self, connection: Connection, letters: Sequence[LetterEvent], settled: Sequence[LetterEvent]
    ) -> None:
        """Record events written to the dead letter topic, and remove settled events, in the ``transaction``."""
        add_letters(connection, self._source, letters)
        remove_letters(connection, self._source, settled)

    def blocked_keys(self, connection: Connection) -> set[RowKey]:
        """Return the rows whose events follow into the dead letter topic."""
        return blocked_keys(connection, self._source)

    def _swap_stamp(self, connection: Connection, applied: LastApplied | None, *, defer_foreign_keys: bool) -> None:
        parameters = {"s": self._source, "e": self._epoch, "old": self._stamp, "new": self._stamp + 1}
        statement = _SWAP
        if applied is not None:
            statement = _SWAP_AND_RECORD
            parameters |= {"l": applied.lsn, "t": applied.tx, "m": applied.ts_ms}
        with self._missing_table_is_a_change():
            found = self._replica.begin(connection, statement, parameters, defer_foreign_keys=defer_foreign_keys)
        if found != 1:
            raise self._refusal(self._read_stamp(connection))

    def _read_stamp(self, connection: Connection) -> tuple[int, int] | None:
        """Return epoch and stamp, or None without a row of the source."""
        with self._missing_table_is_a_change():
            row = connection.execute(_READ_STAMP, {"s": self._source}).one_or_none()
        return None if row is None else (row.epoch, row.stamp)

    @contextmanager
    def _missing_table_is_a_change(self) -> Iterator[None]:
        """Raise ReplicaChangedError if the database refuses the statement."""
        try:
            yield
        except exc.DBAPIError as error:
            if self._replica.classify(error) in (Fault.LOST, Fault.TRANSIENT):
                raise
            raise self._changed(f"the table rowcast_replica has changed: {self._replica.reason(error)}") from error

    def _refusal(self, row: tuple[int, int] | None) -> RowcastError:
        """Return the error for the epoch and stamp that the replica has."""
        if row is None:
            return self._changed("rowcast_replica has no row of the source any more")
        epoch, _ = row
        if epoch > self._epoch:
            return FencedError(
                f"another worker has taken over the replica of source {self._source!r}. "
                "This worker's transaction is rolled back"
            )
        return self._changed(
            "a failover lost transactions, a backup was restored, or a COMMIT took effect although its answer was lost"
        )

    def _changed(self, reason: str) -> ReplicaChangedError:
        return ReplicaChangedError(f"the replica of source {self._source!r} is not as this worker left it: {reason}")


_OWN_EPOCH = (ROWCAST_REPLICA.c.source == sa.bindparam("s")) & (ROWCAST_REPLICA.c.epoch == sa.bindparam("e"))
# Built once, because they run in every transaction.
_REPLICA = ROWCAST_REPLICA.c
_SWAP = (
    sa.update(ROWCAST_REPLICA)
    .where(
        _REPLICA.source == sa.bindparam("s"), _REPLICA.epoch == sa.bindparam("e"), _REPLICA.stamp == sa.bindparam("old")
    )
    .values(stamp=sa.bindparam("new"))
)
_SWAP_AND_RECORD = _SWAP.values(lsn=sa.bindparam("l"), tx=sa.bindparam("t"), ts_ms=sa.bindparam("m"))
_READ_STAMP = sa.select(_REPLICA.epoch, _REPLICA.stamp).where(_REPLICA.source == sa.bindparam("s"))
