"""Test the actions, logs and data of a relay while Kafka does not answer."""

from __future__ import annotations

import gc
import logging
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from rowcast.producer.relay import Relay
from rowcast.producer.relay.kafka import topics
from rowcast.producer.relay.kafka.publisher import Publisher
from rowcast.producer.relay.upkeep import stall_warnings
from rowcast.producer.relay.upkeep.stall_warnings import StallWarnings
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.messages import ChangeEvent
from servers import Broker
from support.kafka_admin import finish
from support.relay.primary import ITEMS, ORDERS, Primary, line
from support.relay.settings import settings_of
from support.relay.threads import running_thread, wait_until
from support.relay.topic_reader import read_topics


@pytest.fixture
def settings(lite: Primary, kafka: Broker, source_name: str) -> Settings:
    return settings_of(kafka, source_name, lite)


def test_the_creation_of_a_topic_waits_for_a_kafka_that_does_not_answer(
    lite: Primary, settings: Settings, kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "_TIMEOUT_S", 0.5)
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    with running_thread(Relay(settings, lite.engine)) as relay:
        wait_until(lambda: not lite.ids())
        kafka.pause()
        try:
            lite.add_shapes(ITEMS)
            lite.add("b", line(ITEMS, "c", 2))
            wait_until(lambda: relay.relay.progress.state == "waiting" or relay.ended_by is not None)
        finally:
            kafka.resume()
        wait_until(lambda: not lite.ids() or relay.ended_by is not None)
        assert relay.ended_by is None
    stream = read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream
    assert [event.table for event in stream if isinstance(event, ChangeEvent)] == ["orders", "items"]


def test_waiting_outbox_rows_are_reported_while_kafka_is_down(
    lite: Primary, settings: Settings, kafka: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stall_warnings, "_WARN_EVERY_S", 0.3)
    lite.add_shapes(ORDERS)
    caplog.set_level(logging.WARNING)
    with running_thread(Relay(settings, lite.engine)) as relay:
        wait_until(lambda: relay.relay.progress.state == "leading")
        kafka.pause()
        try:
            lite.add("a", line(ORDERS, "c", 1))
            lite.add("b", line(ORDERS, "c", 2))
            wait_until(lambda: "the relay publishes nothing: 2 outbox rows wait" in caplog.text)
        finally:
            kafka.resume()
        wait_until(lambda: not lite.ids())


def test_an_empty_or_moving_outbox_is_not_reported(
    lite: Primary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stalls = StallWarnings(lite.engine, "shop")
    now += 60
    stalls.warn_if_due()
    lite.add("a", line(ORDERS, "c", 1))
    stalls.note_committed(1)
    now += 9
    stalls.warn_if_due()
    assert not caplog.records
    now += 2
    stalls.warn_if_due()
    assert "the relay publishes nothing: 1 outbox rows wait, the oldest for" in caplog.text


def test_a_failed_attempt_leaves_no_threads() -> None:
    """An outage of hours has thousands of failed attempts, and garbage collection of reference cycles runs rarely."""
    properties: dict[str, str | int | float | bool] = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}

    def attempt() -> None:
        publisher: Publisher
        # As in a relay, the callback refers to the publisher.
        publisher = Publisher(properties, "shop", lambda: publisher.close(), lambda: None)
        publisher.close()

    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    gc.collect()
    gc.disable()
    try:
        attempt()
        before = threads()
        for _ in range(3):
            attempt()
        deadline = time.monotonic() + 30
        while threads() > before and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        assert threads() <= before
    finally:
        gc.enable()


def test_a_deleted_topic_is_created_again(lite: Primary, settings: Settings, kafka: Broker) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    # For this time, by default 30 s, the client treats a missing topic as a topic that is not known yet.
    settings = settings.model_copy(update={"kafka": settings.kafka | {"topic.metadata.propagation.max.ms": 100}})
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    with running_thread(Relay(settings, lite.engine)) as relay:
        wait_until(lambda: not lite.ids())
        finish(admin.delete_topics([f"{settings.source}.public.orders"]))
        lite.add("b", line(ORDERS, "c", 2))
        wait_until(lambda: not lite.ids() or relay.ended_by is not None, seconds=120)
        assert relay.ended_by is None
    stream = read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream
    assert [event.key for event in stream if isinstance(event, ChangeEvent)] == [{"id": 2}]
