"""The heartbeat renews the lease while the leader works or waits."""

from __future__ import annotations

import time
from collections.abc import Callable

from rowcast.producer.relay.claims.lease import Lease, LeaseRow

_RENEWALS_PER_LEASE = 3


class Heartbeat:
    """Renew the lease of one epoch, three times during the length of a lease.

    All parts of a leader share one heartbeat. A waiting part calls ``renew_lease`` about once a second.
    """

    def __init__(self, lease_row: LeaseRow, epoch: int, lease_ms: int) -> None:
        self._lease_row = lease_row
        self._epoch = epoch
        self._interval_s = lease_ms / 1000 / _RENEWALS_PER_LEASE
        self._current_lease: Callable[[], Lease] | None = None
        self._renewed_at = time.monotonic()

    def follow(self, current_lease: Callable[[], Lease]) -> None:
        """Renew the result of ``current_lease`` from now on, because claims change the lease.

        Without this call each renewal reads the lease from the database.
        """
        self._current_lease = current_lease

    def renew_lease(self) -> None:
        """Renew the lease if a third of it has passed. Raises FencedError if another relay has taken over."""
        if self.due_in_s <= 0:
            lease = self._lease_row.read(self._epoch) if self._current_lease is None else self._current_lease()
            self._lease_row.renew(lease)
            self.note_renewal()

    def note_renewal(self) -> None:
        """Begin the interval again, because a write of the leader has just renewed the lease."""
        self._renewed_at = time.monotonic()

    @property
    def due_in_s(self) -> float:
        """Return the seconds until the next renewal is due, below zero if it is overdue."""
        return self._renewed_at + self._interval_s - time.monotonic()
