"""The rest of a worker between two moments of its schedule."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.worker.assignment import Assignment, Membership
from rowcast.consumer.worker.patience import Patience
from rowcast.shared.config.schedule import Schedule

_log = logging.getLogger("rowcast.worker")

_POLL_S = 1.0


class Rest:
    """Rest between the turns of a worker.

    ``membership``: a single membership for all turns and rests, not closed by turns. Kafka counts a former member for
    some time, so a new membership for each turn would be counted several times.
    """

    def __init__(self, schedule: Schedule, assignment: Assignment, patience: Patience) -> None:
        self._schedule = schedule
        self._assignment = assignment
        self._patience = patience
        self._own: Membership | None = None

    @property
    def begins_at_once(self) -> bool:
        """Return whether the first turn comes before the first rest, as with an interval."""
        return self._schedule.interval_s is not None

    @property
    def membership(self) -> Membership:
        """Return the membership."""
        if self._own is None:
            self._own = self._assignment.new_membership()
        return _KeptMembership(self._own)

    def wait(self) -> None:
        """Wait for the next moment of the schedule, or for the stop."""
        begins = self._schedule.next_after(datetime.now(UTC))
        _log.info(
            "resting until %s, because of the schedule %s", f"{begins:%Y-%m-%d %H:%M:%S UTC}", self._schedule.text
        )
        membership, patience = self.membership, self._patience
        while not patience.is_stopped and (left_s := (begins - datetime.now(UTC)).total_seconds()) > 0:
            membership.poll()
            patience.go_round()
            patience.pause(min(left_s, _POLL_S))

    def close(self) -> None:
        """Leave the group."""
        if self._own is not None:
            self._own.close()


class _KeptMembership:
    def __init__(self, own: Membership) -> None:
        self._own = own

    def poll(self) -> None:
        self._own.poll()

    def commit_offsets(self, positions: Mapping[Partition, Position]) -> None:
        self._own.commit_offsets(positions)

    def close(self) -> None:
        """Stay in the group."""
