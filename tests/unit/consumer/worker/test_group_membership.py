"""The owner of partition 0 of the transaction topic is the active worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from rowcast.consumer.events.position import Position
from rowcast.consumer.status.workers import group_id
from rowcast.consumer.worker import group_membership
from rowcast.consumer.worker.group_membership import GroupMembership, live_membership
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError

TOPIC = "shop.transaction"


class GroupConsumer:
    """Stand in for a consumer in a group, so that a test can call the callbacks."""

    def __init__(self) -> None:
        self.properties: dict[str, Any] = {}
        self.paused: list[TopicPartition] = []
        self.assigned: list[TopicPartition] = []
        self.committed: list[tuple[str, int, int]] = []
        self.error: KafkaException | None = None
        self.message: Any = None
        self.topics: list[str] = []
        self.closed = False
        self.answers = threading.Event()
        self.answers.set()

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self.topics = topics
        self.callbacks = callbacks

    def assign(self, *numbers: int) -> None:
        self.callbacks["on_assign"](self, [TopicPartition(TOPIC, n) for n in numbers])

    def revoke(self, *numbers: int, lost: bool = False) -> None:
        self.callbacks["on_lost" if lost else "on_revoke"](self, [TopicPartition(TOPIC, n) for n in numbers])

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned += partitions

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        self.assigned = [p for p in self.assigned if p not in partitions]

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused += partitions

    def poll(self, timeout: float) -> Any:
        return self.message

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        if self.error is not None:
            raise self.error
        self.committed += [(o.topic, o.partition, o.offset) for o in offsets]

    def close(self) -> None:
        self.answers.wait()
        self.closed = True


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> GroupConsumer:
    consumer = GroupConsumer()

    def new_consumer(properties: dict[str, Any], _extra: str, own: dict[str, Any]) -> GroupConsumer:
        consumer.properties = properties | own
        return consumer

    monkeypatch.setattr(group_membership, "new_consumer", new_consumer)
    return consumer


def join(member_name: Any = None, **kafka: Any) -> GroupMembership:
    replicas = {"copy": ReplicaSettings(url="sqlite://", member_name=member_name)}
    settings = Settings(source="shop", kafka={"bootstrap.servers": "memory", **kafka}, replicas=replicas)
    return live_membership(settings, "copy")


def test_partitions_that_the_group_takes_back_are_given_back(consumer: GroupConsumer) -> None:
    membership = join()
    membership.poll()
    assert consumer.topics == [TOPIC]
    consumer.assign(0, 1)
    assert membership.partitions == {(TOPIC, 0), (TOPIC, 1)}
    consumer.revoke(1)
    assert membership.partitions == {(TOPIC, 0)}
    consumer.revoke(0, lost=True)
    assert consumer.assigned == []
    assert membership.partitions == set()


def test_no_messages_are_read(consumer: GroupConsumer) -> None:
    join()
    consumer.assign(0, 1)
    assert [p.partition for p in consumer.paused] == [0, 1]


def test_lag_monitors_find_the_group_and_its_offsets(consumer: GroupConsumer) -> None:
    membership = join()
    assert consumer.properties["group.id"] == group_id("shop", "copy") == "rowcast.shop.copy"
    membership.commit_offsets({("shop.public.a", 1): Position(7, 70)})
    membership.commit_offsets({})
    assert consumer.committed == [("shop.public.a", 1, 7)]
    consumer.error = KafkaException(KafkaError(KafkaError._TRANSPORT))
    membership.commit_offsets({("shop.public.a", 1): Position(8, 80)})


def test_the_users_timeouts_win(consumer: GroupConsumer) -> None:
    join()
    assert consumer.properties["session.timeout.ms"] == 10_000
    join(**{"session.timeout.ms": 1_500})
    assert consumer.properties["session.timeout.ms"] == 1_500


def test_the_new_protocol_of_the_group_takes_the_brokers_timeouts(consumer: GroupConsumer) -> None:
    refused = {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"}
    join()
    assert refused <= consumer.properties.keys()
    join(**{"group.protocol": "consumer"})
    assert not refused & consumer.properties.keys()


def test_two_members_never_have_one_name(consumer: GroupConsumer) -> None:
    # The assignor of librdkafka runs without end if they do, and follow different topics.
    join(**{"client.id": "mine"})
    first = consumer.properties["client.id"]
    join(**{"client.id": "mine"})
    assert first != consumer.properties["client.id"]
    assert first.startswith("mine-")


@pytest.mark.parametrize("code", [KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID])
def test_a_member_whose_name_another_worker_has_taken_stops(consumer: GroupConsumer, code: int) -> None:
    membership = join("pod-1")
    assert consumer.properties["group.instance.id"] == "pod-1"
    consumer.message = SimpleNamespace(error=lambda: KafkaError(KafkaError._TRANSPORT))
    membership.poll()
    consumer.message = SimpleNamespace(error=lambda: KafkaError(code))
    with pytest.raises(ConfigurationError, match="member_name 'pod-1'"):
        membership.poll()


def test_a_member_follows_the_topics_of_new_tables(consumer: GroupConsumer) -> None:
    membership = join()
    membership.follow(["b", "a"])
    assert consumer.topics == ["a", "b"]
    consumer.topics = []
    membership.follow(["a", "b"])
    membership.follow([])
    assert consumer.topics == []


def test_a_worker_that_ends_leaves_the_group(consumer: GroupConsumer) -> None:
    join().close()
    assert consumer.closed


def test_a_worker_does_not_wait_for_ever_for_a_kafka_that_does_not_answer(
    consumer: GroupConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_membership, "_LEAVE_S", 0.01)
    consumer.answers.clear()
    join().close()
    assert not consumer.closed
    consumer.answers.set()
