"""Missing topics are created with the configured settings, and existing topics are left alone."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from rowcast.producer.relay.kafka import topics as module
from rowcast.producer.relay.kafka.topics import EmbeddedTopics, Topics
from rowcast.shared.config.topic_settings import TableTopicSettings, TopicSettings
from rowcast.shared.errors import ConfigurationError, UnreachableError

ORDERS = "shop.public.orders"
MARKER = "__rowcast.shop"
TRANSACTIONS = "shop.transaction"


class Metadata:
    def __init__(self, topics: set[str]) -> None:
        self.topics = dict.fromkeys(topics)


class FakeAdmin:
    """Stand in for a cluster with topics. ``refusal``: the error code of a refused creation."""

    def __init__(self, *existing: str, refusal: int | None = None) -> None:
        self.existing = set(existing)
        self.created: dict[str, Any] = {}
        self.refusal = refusal
        self.is_away = False
        self.asked_for: list[str] = []

    def list_topics(self, name: str | None = None, timeout: float = 0) -> Metadata:
        if self.is_away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        if name is not None:
            self.asked_for.append(name)
        return Metadata(self.existing)

    def create_topics(self, topics: list[Any], request_timeout: float) -> dict[str, Future[None]]:
        futures: dict[str, Future[None]] = {}
        for topic in topics:
            future = futures[topic.topic] = Future()
            if self.refusal is None:
                self.created[topic.topic] = topic
                future.set_result(None)
            else:
                future.set_exception(KafkaException(KafkaError(self.refusal)))
        return futures

    def describe_configs(self, resources: list[Any], request_timeout: float) -> dict[Any, Future[Any]]:
        return {}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeAdmin:
    admin = FakeAdmin()
    monkeypatch.setattr(module, "new_admin", lambda properties, extra: admin)
    return admin


def nothing() -> None:
    pass


def new_topics(settings: TopicSettings | None = None, kind: type[Topics] = Topics) -> Topics:
    return kind({"bootstrap.servers": "nowhere"}, "shop", settings or TopicSettings())


def test_a_missing_topic_is_created_once(cluster: FakeAdmin) -> None:
    topics = new_topics(TopicSettings(partitions=6, replication_factor=3))
    topics.ensure([ORDERS], nothing)
    created = cluster.created.pop(ORDERS)
    assert (created.num_partitions, created.replication_factor) == (6, 3)
    topics.ensure([ORDERS], nothing)
    assert cluster.created == {}


def test_an_existing_topic_is_left_alone(cluster: FakeAdmin) -> None:
    cluster.existing.add(ORDERS)
    new_topics().ensure([ORDERS], nothing)
    assert cluster.created == {}


def test_a_topic_that_another_relay_creates_first_is_no_error(cluster: FakeAdmin) -> None:
    cluster.refusal = KafkaError.TOPIC_ALREADY_EXISTS
    new_topics().ensure([ORDERS], nothing)


def test_a_table_topic_has_the_settings_of_its_table(cluster: FakeAdmin) -> None:
    own = TableTopicSettings(partitions=2, cleanup_policy="compact,delete", retention_ms=60_000)
    topics = new_topics(TopicSettings(partitions=6, tables={"public.orders": own}))
    topics.ensure([ORDERS, "shop.public.items"], nothing)
    orders, items = cluster.created[ORDERS], cluster.created["shop.public.items"]
    assert (orders.num_partitions, items.num_partitions) == (2, 6)
    assert orders.config["cleanup.policy"] == "compact,delete"
    assert orders.config["retention.ms"] == "60000"
    assert "retention.ms" not in items.config


def test_the_topics_of_each_source_have_one_partition(cluster: FakeAdmin) -> None:
    topics = new_topics(TopicSettings(partitions=6))
    topics.ensure_own(["__rowcast-heartbeat.shop"], nothing)
    assert {topic.num_partitions for topic in cluster.created.values()} == {1}
    assert cluster.created[TRANSACTIONS].config["cleanup.policy"] == "delete"
    marker = next(topic for name, topic in cluster.created.items() if name == MARKER)
    assert marker.config == {"cleanup.policy": "compact", "segment.bytes": "10485760"}


def test_a_refusal_names_the_topic(cluster: FakeAdmin) -> None:
    cluster.refusal = KafkaError.TOPIC_AUTHORIZATION_FAILED
    with pytest.raises(ConfigurationError, match=r"creating the topic shop\.public\.orders"):
        new_topics().ensure([ORDERS], nothing)


def test_a_kafka_that_does_not_answer_is_unreachable(cluster: FakeAdmin) -> None:
    cluster.is_away = True
    with pytest.raises(UnreachableError):
        new_topics().ensure([ORDERS], nothing)


def test_the_lease_is_renewed_while_topics_are_created(cluster: FakeAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    pending: Future[None] = Future()
    monkeypatch.setattr(cluster, "create_topics", lambda topics, request_timeout: {ORDERS: pending})
    monkeypatch.setattr(module, "_RENEW_EVERY_S", 0.001)
    renewals: list[int] = []

    def renew_lease() -> None:
        renewals.append(1)
        if len(renewals) == 3:
            pending.set_result(None)

    new_topics().ensure([ORDERS], renew_lease)
    assert len(renewals) == 3


def test_a_fenced_relay_creates_no_topic(cluster: FakeAdmin) -> None:
    def renew_lease() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        new_topics().ensure([ORDERS], renew_lease)
    assert cluster.created == {}


def test_the_embedded_kafka_adds_a_topic_when_it_is_asked_for(cluster: FakeAdmin) -> None:
    new_topics(kind=EmbeddedTopics).ensure([ORDERS], nothing)
    assert (cluster.created, cluster.asked_for) == ({}, [ORDERS])
