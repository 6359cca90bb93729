"""Run the relay against a Kafka that refuses operations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from rowcast.consumer import run_worker
from rowcast.producer.relay import Relay
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.errors import ConfigurationError, LoginError
from rowcast.shared.kafka.messages import ChangeEvent
from rowcast.shared.kafka.topic_names import marker_topic
from servers import Broker
from support.kafka_admin import finish
from support.relay.primary import ORDERS, Primary, line
from support.relay.settings import settings_of
from support.relay.topic_reader import assert_whole_transactions, read_topics


@contextmanager
def forbidden(kafka: Broker, kind: ResourceType, name: str, operation: AclOperation) -> Iterator[None]:
    """Grant the operation to every user."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    of = (kind, name, ResourcePatternType.LITERAL, "User:*", "*", operation, AclPermissionType.DENY)
    finish(admin.create_acls([AclBinding(*of)]))
    try:
        yield
    finally:
        finish(admin.delete_acls([AclBindingFilter(*of)]))


@pytest.mark.parametrize(
    ("kind", "name_of", "operation"),
    [
        (ResourceType.TOPIC, lambda source: f"{source}.public.orders", AclOperation.WRITE),
        (ResourceType.TRANSACTIONAL_ID, lambda source: f"rowcast.{source}-0", AclOperation.WRITE),
        (ResourceType.TOPIC, marker_topic, AclOperation.READ),
    ],
    ids=["topic", "transactional id", "marker"],
)
def test_a_relay_without_permission_raises_the_reason_and_loses_nothing(
    lite: Primary, kafka: Broker, source_name: str, kind: ResourceType, name_of: Callable[[str], str],
    operation: AclOperation,
) -> None:  # fmt: skip
    settings = settings_of(kafka, source_name, lite)
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    Relay(settings, lite.engine).run_once()
    lite.add("b", line(ORDERS, "c", 2))
    with (
        forbidden(kafka, kind, name_of(source_name), operation),
        pytest.raises(ConfigurationError, match=r"Kafka refuses the relay: .*Check the security settings in \[kafka\]"),
    ):
        Relay(settings, lite.engine).run_once()
    assert lite.ids()
    Relay(settings, lite.engine).run_once()
    stream = read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream
    assert_whole_transactions(stream)
    assert [event.key for event in stream if isinstance(event, ChangeEvent)] == [{"id": 1}, {"id": 2}]


# The tests' broker has no SASL, so it refuses every login.
LOGIN = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.username": "relay",
    "sasl.password": "SECRET",
}


def test_a_refused_login_is_named(lite: Primary, kafka: Broker, source_name: str) -> None:
    """librdkafka raises only that the time has passed."""
    settings = settings_of(kafka, source_name, lite)
    settings = settings.model_copy(update={"kafka": {"bootstrap.servers": kafka.bootstrap_servers, **LOGIN}})
    started = time.monotonic()
    with pytest.raises(LoginError, match=rf"Kafka at {kafka.bootstrap_servers} refuses the login: .*SASL") as raised:
        Relay(settings, lite.engine).run_once()
    assert raised.value.exit_code == 2
    assert "SECRET" not in str(raised.value)
    assert time.monotonic() - started < 10
    replicas = {"copy": ReplicaSettings(url="sqlite://")}
    with pytest.raises(LoginError, match="refuses the login"):
        run_worker(settings.model_copy(update={"replicas": replicas}), "copy", once=True)
