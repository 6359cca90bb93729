"""Change topics of a broker, and wait until the broker has done so."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from functools import cache
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
)

# A broker on a busy machine with 2 processors has needed more than 10 s for a topic.
_PATIENCE_S = 60


def finish(futures: Mapping[Any, Future[Any]]) -> None:
    """Wait until the broker has done all of it, and raise its first error."""
    for future in futures.values():
        future.result(_PATIENCE_S)


def create_topics(bootstrap: str, *topics: NewTopic) -> None:
    admin = _admin(bootstrap)
    finish(admin.create_topics(list(topics)))


def create_partitions(bootstrap: str, topic: str, total: int) -> None:
    """Add partitions to a topic. Some clients learn of them later."""
    admin = _admin(bootstrap)
    finish(admin.create_partitions([NewPartitions(topic, total)]))


def set_config(bootstrap: str, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = _admin(bootstrap)
    finish(admin.incremental_alter_configs([resource]))


def delete_records(bootstrap: str, topic: str, before: int) -> None:
    """Delete the records of the topic's first partition before an offset.

    Kafka refuses this for topics that are only compacted, and its log learns of another policy some time after the
    controller.
    """
    admin = _admin(bootstrap)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return finish(admin.delete_records([TopicPartition(topic, 0, before)]))
        except KafkaException as error:
            if error.args[0].code() != KafkaError.POLICY_VIOLATION or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@cache
def _admin(bootstrap: str) -> AdminClient:
    """Return the client of a broker. A client for each request would take more time than the requests."""
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
