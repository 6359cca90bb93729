"""What a relay does, tells and keeps while Kafka does not answer."""

from __future__ import annotations

import gc
import logging
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from integration.relay_settings import settings_of
from integration.relay_threads import running_thread, wait_until
from integration.relay_topics import read_topics
from rowcast.producer.relay import Relay, stalls, topics
from rowcast.producer.relay.publisher import Publisher
from rowcast.producer.relay.stalls import Stalls
from rowcast.shared.config import Settings
from rowcast.shared.events import ChangeEvent
from servers import Broker
from unit.relay_database import ITEMS, ORDERS, Primary, line


@pytest.fixture
def settings(lite: Primary, kafka: Broker, source_name: str) -> Settings:
    return settings_of(kafka, source_name, lite)


def test_a_topic_that_cannot_be_made_because_kafka_is_away_is_waited_for(
    lite: Primary, settings: Settings, kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "_TIMEOUT_S", 0.5)
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    with running_thread(Relay(settings, lite.engine)) as relay:
        wait_until(lambda: not lite.ids())
        kafka.kill()
        try:
            lite.add_shapes(ITEMS)
            lite.add("b", line(ITEMS, "c", 2))
            wait_until(lambda: relay.relay.progress.state == "waiting" or relay.ended_by is not None)
        finally:
            kafka.start()
        wait_until(lambda: not lite.ids() or relay.ended_by is not None)
        assert relay.ended_by is None
    stream = read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream
    assert [event.table for event in stream if isinstance(event, ChangeEvent)] == ["orders", "items"]


def test_what_waits_in_the_outbox_is_told_while_kafka_is_away(
    lite: Primary, settings: Settings, kafka: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stalls, "_EVERY_S", 1.0)
    lite.add_shapes(ORDERS)
    caplog.set_level(logging.WARNING)
    with running_thread(Relay(settings, lite.engine)) as relay:
        wait_until(lambda: relay.relay.progress.state == "leading")
        kafka.pause()
        try:
            lite.add("a", line(ORDERS, "c", 1))
            lite.add("b", line(ORDERS, "c", 2))
            wait_until(lambda: "nothing is published: 2 rows wait in the outbox" in caplog.text)
        finally:
            kafka.resume()
        wait_until(lambda: not lite.ids())


def test_nothing_is_told_of_an_outbox_that_is_empty_or_moves(
    lite: Primary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told = Stalls(lite.engine, "shop")
    now += 60
    told.look()
    lite.add("a", line(ORDERS, "c", 1))
    told.at(1)
    now += 9
    told.look()
    assert not caplog.records
    now += 2
    told.look()
    assert "nothing is published: 1 rows wait in the outbox, the first for" in caplog.text


def test_an_attempt_that_has_failed_leaves_no_threads_behind() -> None:
    """In an outage of hours there are thousands, and Python seldom looks for what refers to itself in a circle."""
    properties = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}

    def attempt() -> None:
        publisher: Publisher
        # As in a relay, what is called while it waits refers to it.
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


def test_a_topic_that_somebody_has_deleted_is_made_anew(lite: Primary, settings: Settings, kafka: Broker) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    # For so long, by default 30 s, the client takes a topic that is gone for one that is only not known yet.
    settings = settings.model_copy(update={"kafka": settings.kafka | {"topic.metadata.propagation.max.ms": 500}})
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    with running_thread(Relay(settings, lite.engine)) as relay:
        wait_until(lambda: not lite.ids())
        for gone in admin.delete_topics([f"{settings.source}.public.orders"]).values():
            gone.result(30)
        lite.add("b", line(ORDERS, "c", 2))
        wait_until(lambda: not lite.ids() or relay.ended_by is not None, seconds=120)
        assert relay.ended_by is None
    stream = read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream
    assert [event.key for event in stream if isinstance(event, ChangeEvent)] == [{"id": 2}]
