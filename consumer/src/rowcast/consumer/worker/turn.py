"""A turn of a worker: join the group, wait for the claim, and work until the claim is lost."""

from __future__ import annotations

from collections.abc import Mapping

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.reading.share import Share
from rowcast.consumer.replica.claim import Claim
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.positions import ReplicaRow
from rowcast.consumer.worker.assignment import Membership


class Turn:
    """Hold the membership and the claim of one turn. ``share``: the partitions to read, or None for all."""

    lost_text = "this worker has no claim to the replica any more: standing by"
    idle_text = "another worker of this replica is active: standing by"

    def __init__(self, membership: Membership, replica: Replica, claim: Claim, share: Share | None) -> None:
        self.share = share
        self._membership = membership
        self._replica = replica
        self._claim = claim

    def take(self) -> bool:
        """Return whether this worker may work now. Raise RetriableError if the replica does not answer."""
        self._membership.poll()
        return self._replica.take(self._claim)

    def take_over(self) -> tuple[ReplicaRow, Mapping[Partition, Position]]:
        """Take the replica over. Return its row and positions."""
        return self._replica.take_over()

    def is_active(self) -> bool:
        """Return whether this worker may still work."""
        self._membership.poll()
        return self._claim.is_held

    def commit_offsets(self, positions: Mapping[Partition, Position]) -> None:
        """Commit offsets for lag monitors."""
        self._membership.commit_offsets(positions)

    def close(self) -> None:
        """Let another worker take over at once."""
        # The group comes last, because leaving it may take long without a broker.
        self._replica.close()
        self._claim.release()
        self._membership.close()
