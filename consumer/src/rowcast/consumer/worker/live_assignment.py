"""The assignment of the workers that follow a replica's own tables."""

from __future__ import annotations

from rowcast.consumer.replica.dialects import LIVE
from rowcast.consumer.worker.assignment import Assignment
from rowcast.consumer.worker.group_membership import live_membership
from rowcast.consumer.worker.pace import Pace
from rowcast.consumer.worker.source_format import is_shared
from rowcast.shared.config.schedule import Schedule
from rowcast.shared.config.settings import Settings


def live_assignment(settings: Settings, replica: str, *, scheduled: bool = True, paced: bool = True) -> Assignment:
    """Return the assignment. ``scheduled``, ``paced``: whether the worker keeps to the replica's schedule and pace."""
    options, in_group = settings.replica(replica), is_shared(settings, replica)
    return Assignment(
        settings.source,
        LIVE,
        lambda: live_membership(settings, replica),
        command=f"rowcast worker {replica}",
        rebuild_command=f"rowcast rebuild {replica}",
        pace=Pace(options.lag, options.max_rate) if paced else Pace(),
        in_group=in_group,
        schedule=Schedule.parse(options.schedule) if scheduled and options.schedule is not None else None,
    )
