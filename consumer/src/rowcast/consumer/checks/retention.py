"""Compare how long a replica has lacked a commit with how long Kafka keeps it, for ``rowcast check``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rowcast.consumer.status.lag import ReplicaStatus
from rowcast.shared.cli.durations import duration_text
from rowcast.shared.config.settings import Settings
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.kafka.clients import new_admin

_TIMEOUT_S = 10
# A warning before the half of the time is over would come with every stop.
_NEAR = 0.5


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many milliseconds a topic keeps something at least. ``what``: deletes, or records."""

    topic: str
    what: str
    ms: int
    setting: str

    @classmethod
    def of(cls, topic: str, config: Mapping[str, str]) -> Iterator[Retention]:
        """Yield the shortest times in the settings of a topic."""
        policies = config["cleanup.policy"].split(",")
        if "compact" in policies:
            kept = int(config["delete.retention.ms"]) + int(config["min.compaction.lag.ms"])
            yield cls(topic, "deletes", kept, "delete.retention.ms")
        if "delete" in policies and int(config["retention.ms"]) >= 0:
            yield cls(topic, "records", int(config["retention.ms"]), "retention.ms")


def retention_findings(settings: Settings, status: ReplicaStatus, area: str) -> Iterator[Finding]:
    """Yield a finding if Kafka has removed, or will soon remove, unread records of the replica."""
    waiting = [lag.topic for lag in status.topics if lag.records]
    if not waiting:
        return
    kept = [one for topic, config in _configs(settings, waiting).items() for one in Retention.of(topic, config)]
    if (finding := judge(kept, status, area)) is not None:
        yield finding


def judge(kept: list[Retention], status: ReplicaStatus, area: str) -> Finding | None:
    """Return the finding about the topic with the shortest retention, or None if time is left."""
    if not kept:
        return None
    first = min(kept, key=lambda one: one.ms)
    left_ms = first.ms - status.behind_ms
    said = (
        f"topic {first.topic} keeps {first.what} for {duration_text(first.ms)} ({first.setting}), and the replica has "
        f"lacked a commit for {duration_text(status.behind_ms)}"
    )
    worker = f"rowcast worker {status.replica}"
    if left_ms <= 0:
        hint = f"start `{worker}`, which says whether anything is lost. If so: `rowcast rebuild {status.replica}`"
        return Finding(area, Verdict.missing, f"{said}, so Kafka may have removed what it needs", hint)
    if status.behind_ms > first.ms * _NEAR:
        hint = f"let `{worker}` catch up until then, or give the topic a longer {first.setting}"
        return Finding(area, Verdict.warning, f"{said}: {duration_text(left_ms)} left", hint)
    return None


def _configs(settings: Settings, topics: list[str]) -> dict[str, dict[str, str]]:
    """Return the settings of the topics. A topic whose settings may not be read is left out."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource, ResourceType

    admin = new_admin(settings.require_kafka(), "worker")
    wanted = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    found: dict[str, dict[str, str]] = {}
    for resource, answer in admin.describe_configs(wanted, request_timeout=_TIMEOUT_S).items():
        try:
            entries: dict[str, Any] = answer.result()
        except KafkaException:
            # The check of the topics reports the error.
            continue
        found[resource.name] = {name: entry.value for name, entry in entries.items()}
    return found
