"""The owner of partition 0 of the transaction topic is the active worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from rowcast.consumer.events.position import Position
from rowcast.consumer.status.workers import group_id
from rowcast.consumer.worker import group_membership
from rowcast.consumer.worker.group_membership import GroupMembership
from rowcast.shared.config.settings import Settings

TOPIC = "shop.transaction"


class GroupConsumer:
    """Stand in for a consumer in a group, so that a test can call the callbacks."""

    def __init__(self) -> None:
        self.properties: dict[str, Any] = {}
        self.paused: list[TopicPartition] = []
        self.assigned: list[TopicPartition] = []
        self.committed: list[tuple[str, int, int]] = []
        self.error: KafkaException | None = None
        self.closed = False
        self.answers = threading.Event()
        self.answers.set()

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        assert topics == [TOPIC]
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

    def poll(self, timeout: float) -> None:
        return None

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


def join(**kafka: str | int | float | bool) -> GroupMembership:
    return GroupMembership(Settings(source="shop", kafka={"bootstrap.servers": "memory", **kafka}), "copy")


def test_partitions_that_the_group_takes_back_are_given_back(consumer: GroupConsumer) -> None:
    membership = join()
    membership.poll()
    consumer.assign(0, 1)
    consumer.revoke(1)
    consumer.revoke(0, lost=True)
    assert consumer.assigned == []


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
