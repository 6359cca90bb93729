"""Durations and schedules are read as people write them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.schedule import Schedule, seconds_of

NOON = datetime(2026, 12, 1, 12, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("15 min", 900), ("1h", 3_600), ("2d", 172_800), ("250ms", 0.25), ("1.5h", 5_400),
     ("60", 60), (7, 7), (0.5, 0.5)],
)  # fmt: skip
def test_a_duration_has_a_unit_or_counts_seconds(text: Any, seconds: float) -> None:
    assert seconds_of(text) == seconds
    assert ReplicaSettings.model_validate({"url": "sqlite://", "lag": text}).lag == seconds


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lag", "an hour", "'an hour' is no duration. Write a number of seconds, or a text such as 90s"),
        ("lag", "-1h", "is no duration"),
        ("lag", -1, "greater than or equal to 0"),
        ("lag", float("nan"), "greater than or equal to 0"),
        ("lag", "inf", "finite"),
        ("schedule", "often", "'often' is no duration"),
        ("schedule", "0s", "an interval is a second at least"),
        ("schedule", "inf", "an interval is a second at least"),
        ("schedule", "61 * * * *", "no cron expression of five fields: bad minute"),
        ("schedule", "* * * * * *  *", "no cron expression of five fields: wrong number of fields"),
        ("schedule", "0 0 30 2 *", "no cron expression"),
        ("max_rate", 0, "greater than or equal to 1"),
    ],
)
def test_a_mistake_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReplicaSettings.model_validate({"url": "sqlite://", field: value})


def test_a_scheduled_worker_cannot_compare_all_the_time() -> None:
    with pytest.raises(ValidationError, match="verify_every needs a worker that follows all the time"):
        ReplicaSettings.model_validate({"url": "sqlite://", "schedule": "15m", "verify_every": 60})


def test_the_next_moment_of_cron_is_in_utc_and_of_an_interval_from_now() -> None:
    assert Schedule.parse("*/15 * * * *").next_after(NOON) == datetime(2026, 12, 1, 12, 15, tzinfo=UTC)
    assert Schedule.parse("0 3 * * 1-5").next_after(NOON) == datetime(2026, 12, 2, 3, tzinfo=UTC)
    assert Schedule.parse("15m").next_after(NOON) == datetime(2026, 12, 1, 12, 22, tzinfo=UTC)


def test_a_replica_may_lack_commits_for_its_longest_rest_and_its_lag() -> None:
    def due(**options: object) -> float:
        return ReplicaSettings.model_validate({"url": "sqlite://", **options}).due_after_s

    assert due() == 0
    assert due(schedule="15m") == 900
    assert due(schedule="*/15 * * * *", lag="1h") == 4_500
    assert due(schedule="0 3 * * 1-5") == 3 * 86_400  # From Friday to Monday.
