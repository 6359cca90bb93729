"""Find the workers of a replica, by the members of their Kafka consumer group."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.clients import new_admin

_log = logging.getLogger("rowcast.status")

_TIMEOUT_S = 5.0


def group_id(source: str, replica: str) -> str:
    """Return the consumer group of the replica's workers, in which lag monitors find the replica."""
    return f"rowcast.{source}.{replica}"


@dataclass(frozen=True, slots=True)
class Member:
    """A running worker: its host, and the partitions that the group gives it, as ``topic:number``."""

    host: str
    partitions: tuple[str, ...] = ()


def group_members(settings: Settings, replica: str) -> tuple[Member, ...] | None:
    """Return the running workers of a replica, or None if Kafka does not show the group.

    Kafka notices the death of a worker after ``session.timeout.ms``.
    """
    from confluent_kafka import KafkaException

    admin = new_admin(settings.require_kafka(), "worker")
    group = group_id(settings.source, replica)
    try:
        described = admin.describe_consumer_groups([group], request_timeout=_TIMEOUT_S)[group].result()
    except KafkaException as error:
        if error.args[0].name() == "GROUP_ID_NOT_FOUND":
            return ()
        _log.debug("the consumer group %s cannot be described: %s", group, error)
        return None
    return tuple(
        Member(
            member.host.lstrip("/"),
            tuple(sorted(f"{one.topic}:{one.partition}" for one in member.assignment.topic_partitions)),
        )
        for member in described.members
    )
