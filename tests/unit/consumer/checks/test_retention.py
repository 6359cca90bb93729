"""The check names how long Kafka still keeps the records that a replica has not read."""

from __future__ import annotations

import pytest

from rowcast.consumer.checks.retention import Retention, judge
from rowcast.consumer.status.lag import ReplicaStatus, TopicLag
from rowcast.shared.findings import Verdict

HOUR = 3_600_000
DEFAULTS = {
    "cleanup.policy": "compact",
    "delete.retention.ms": "86400000",
    "min.compaction.lag.ms": "0",
    "retention.ms": "604800000",
}


def lagging(hours: float) -> ReplicaStatus:
    return ReplicaStatus("copy", "consistent", behind_ms=int(hours * HOUR), topics=(TopicLag("shop.orders", 3),))


def kept(**settings: str) -> list[Retention]:
    config = {**DEFAULTS, **{name.replace("_", "."): value for name, value in settings.items()}}
    return list(Retention.of("shop.orders", config))


def test_a_compacted_topic_keeps_deletes_and_the_others_keep_records() -> None:
    assert kept() == [Retention("shop.orders", "deletes", 24 * HOUR, "delete.retention.ms")]
    assert kept(min_compaction_lag_ms="3600000")[0].ms == 25 * HOUR
    assert [one.what for one in kept(cleanup_policy="compact,delete")] == ["deletes", "records"]
    assert [one.ms for one in kept(cleanup_policy="delete", retention_ms="3600000")] == [HOUR]
    # For ever.
    assert kept(cleanup_policy="delete", retention_ms="-1") == []


@pytest.mark.parametrize("hours", [0, 11.9])
def test_a_replica_with_time_left_has_no_finding(hours: float) -> None:
    assert judge(kept(), lagging(hours), "replica 'copy'") is None
    assert judge([], lagging(1_000), "replica 'copy'") is None


def test_the_time_left_is_named() -> None:
    found = judge(kept(), lagging(20), "replica 'copy'")
    assert found is not None
    assert found.verdict is Verdict.warning
    assert found.message == (
        "topic shop.orders keeps deletes for 1 d (delete.retention.ms), and the replica has lacked a commit for 20 h: "
        "4 h left"
    )
    assert "let `rowcast worker copy` catch up" in found.hint


def test_a_replica_that_is_away_for_too_long_may_have_lost_something() -> None:
    found = judge(kept(), lagging(25), "replica 'copy'")
    assert found is not None
    assert found.verdict is Verdict.missing
    assert "so Kafka may have removed what it needs" in found.message
    assert "`rowcast rebuild copy`" in found.hint


def test_the_topic_with_the_shortest_time_counts() -> None:
    both = [*kept(), *kept(cleanup_policy="delete", retention_ms="3600000")]
    found = judge(both, lagging(2), "replica 'copy'")
    assert found is not None
    assert "keeps records for 1 h (retention.ms)" in found.message
