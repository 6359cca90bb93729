"""A replica database as one worker of a group uses it. Each worker writes the rows of its partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from sqlalchemy.engine import Connection

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.transactions import Run
from rowcast.consumer.replica import positions
from rowcast.consumer.replica.claim import Claim
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.group_positions import GroupPositions, join_group, read_known_ms
from rowcast.consumer.replica.part import require_undivided
from rowcast.consumer.replica.positions import GROUP_OWNER, ReplicaRow, read_row
from rowcast.consumer.replica.worker_tables import METADATA
from rowcast.shared.errors import DataError, FencedError, RetriableError

_NO_POSITION = Position(0, 0)


class GroupReplica(Replica):
    """A replica shared with the other workers of the group. Methods raise the errors of ``Replica``.

    ``FencedError``: the replica does not belong to the group any more.
    """

    alone: Callable[[], AbstractContextManager[None]] = staticmethod(nullcontext)
    """Return a block in which no other worker of the group changes tables. Set by the owner of the claims."""

    partitions: frozenset[Partition] = frozenset()
    """The partitions whose rows this worker writes."""

    _may_wait_for_another = False

    known_ms: Mapping[Partition, int] = {}
    """The time before which the replica knows all deletes, by partition, as read by ``take_over``."""

    def take_for_a_moment(self, claim: Claim) -> bool:
        """Return whether the worker has the claim now, to join the group or to change tables."""
        with self._translated_errors():
            return claim.take()

    def join(self, counts: Mapping[str, int]) -> None:
        """Give the replica to the group, unless the group has it. Call this with the claim.

        ``counts``: the number of partitions of each topic. A replica that was consistent loads from now on, without
        constraints between rows. Raise DataError if a topic has got more partitions.
        """
        self._create_worker_tables()
        try:
            with self._connected() as connection, connection.begin():
                self._dialect.require_transactions(connection, list(METADATA.tables))
                require_undivided(connection, self._source, f"rowcast rebuild {self._name}")
                join_group(connection, self._source, counts)
        except DataError:
            # The group has the replica, and the reason for the stop is recorded under its epoch.
            self.take_over()
            raise
        self.take_over()
        if self.state == "consistent":
            self._leave_consistency()

    def _leave_consistency(self) -> None:
        """Drop the constraints between rows.

        The state changes last, so that another worker finishes an interrupted drop.
        """
        with self._connected() as connection:
            self._dialect.set_consistency(connection, consistent=False)
        # As while loading, no constraint is created.
        self.state = "loading"
        self.prepare()
        with self._connected() as connection:
            self._constraints.drop(connection)
            self._positions.change_state(connection, "loading")

    def take_over(self) -> tuple[ReplicaRow, dict[Partition, Position]]:
        """Read the replica's row and all positions. No worker of the group is fenced.

        Raise FencedError if the replica does not belong to the group any more.
        """
        self.close()
        with self._connected() as connection, connection.begin():
            row = read_row(connection, self._source)
            applied = self._read_positions(connection)
            self.known_ms = read_known_ms(connection, self._source)
        if row is None or row.owner != GROUP_OWNER:
            raise FencedError(f"another worker or a command has the replica of source {self._source!r} for itself")
        held = {partition: position for partition, position in applied.items() if partition in self.partitions}
        own = GroupPositions(self._source, row.epoch, self._dialect, self.topic_ids, held)
        self._begin(row, applied, own)
        # A position of a partition from which nothing was read stands for no rows.
        return row, {partition: position for partition, position in applied.items() if position.next_offset}

    def _set_up(self, connection: Connection) -> None:
        # A suspended worker would keep the positions of its partitions from the next worker.
        self._dialect.end_silent_transactions(connection, self._lease_s)
        if self._may_wait_for_another:
            self._may_wait_for_another = False
            self._dialect.end_position_holders(connection, self._source, self.partitions)

    def apply(self, run: Run) -> int:
        """Apply a run as ``Replica.apply`` does."""
        try:
            return super().apply(run)
        except RetriableError:
            # The fault may be the wait for a worker that had the partitions before, and is suspended.
            self._may_wait_for_another = True
            raise

    def has_reached(self, ends: Mapping[Partition, int]) -> bool:
        """Return whether the group has applied everything before ``ends``."""
        with self._connected() as connection:
            return self._has_reached(connection, ends)

    def _has_reached(self, connection: Connection, ends: Mapping[Partition, int]) -> bool:
        with connection.begin():
            stored = positions.read_positions(connection, self._source)
        return all(stored.get(one, _NO_POSITION).next_offset >= end for one, end in ends.items())

    @contextmanager
    def _changing_tables(self, connection: Connection) -> Iterator[None]:
        with self.alone(), super()._changing_tables(connection):
            yield
