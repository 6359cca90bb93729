"""The rest of a worker between two moments of its schedule."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from rowcast.consumer.worker.assignment import Assignment
from rowcast.consumer.worker.patience import Patience
from rowcast.shared.config.schedule import Schedule

_log = logging.getLogger("rowcast.worker")

_POLL_S = 1.0


def rest(schedule: Schedule, assignment: Assignment, patience: Patience) -> None:
    """Wait for the next moment of the schedule, or for the stop. The worker stays a member of its group meanwhile."""
    begins = schedule.next_after(datetime.now(UTC))
    _log.info("resting until %s, because of the schedule %s", f"{begins:%Y-%m-%d %H:%M:%S UTC}", schedule.text)
    membership = assignment.new_membership()
    try:
        while not patience.is_stopped and (left_s := (begins - datetime.now(UTC)).total_seconds()) > 0:
            membership.poll()
            patience.go_round()
            patience.pause(min(left_s, _POLL_S))
    finally:
        membership.close()
