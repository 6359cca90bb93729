"""Kafka or the database is down: the application continues, each event is published once, and the relay recovers."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

import pytest

from rowcast.producer.relay import Relay, backlog, main_loop, running
from rowcast.producer.relay.kafka import idle_contact
from rowcast.producer.relay.upkeep import silent_kafka
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka import clients
from servers import Broker, DatabaseServer
from support.relay.counter_app import Counters
from support.relay.primary import Primary, primary_at
from support.relay.settings import NewSettings
from support.relay.threads import running_thread, wait_until
from support.relay.topic_reader import assert_whole_transactions, notes_by_key, read_topics


def assert_all_arrived(settings: Settings, counters: Counters) -> None:
    servers = str(settings.kafka["bootstrap.servers"])
    for published in (
        read_topics(servers, settings.source, "read_committed"),
        read_topics(servers, settings.source, "read_uncommitted").by_lsn_rule(),
    ):
        assert_whole_transactions(published.stream)
        assert notes_by_key(published.stream) == counters.expected()


@pytest.mark.parametrize("outage", ["pause", "kill"])
def test_the_outbox_holds_what_kafka_does_not_take(
    lite: Primary,
    new_settings: NewSettings,
    kafka: Broker,
    outage: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(silent_kafka, "_SILENT_S", 0.5)
    settings, counters, rng = new_settings(lite), Counters(lite), random.Random(1)
    with running_thread(Relay(settings, lite.engine)) as relay:
        counters.raise_some(rng)
        wait_until(lambda: relay.relay.progress.events > 0)
        getattr(kafka, outage)()
        try:
            start = time.monotonic()
            for _ in range(20):
                counters.raise_some(rng)
            assert time.monotonic() - start < 10, "the application's commits wait for nobody"
            assert backlog(lite.engine, settings.source).rows > 0
            wait_until(lambda: relay.relay.progress.state == "waiting")
            assert f"Kafka at {kafka.bootstrap_servers} has not answered for" in caplog.text
        finally:
            kafka.resume() if outage == "pause" else kafka.start()
        wait_until(lambda: not lite.ids(), seconds=90)
        wait_until(lambda: relay.relay.progress.state == "leading")
        assert relay.ended_by is None
    assert_all_arrived(settings, counters)


def test_an_idle_relay_waits_while_kafka_is_away(
    lite: Primary,
    new_settings: NewSettings,
    kafka: Broker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(silent_kafka, "_SILENT_S", 0.5)
    monkeypatch.setattr(idle_contact, "_EVERY_S", 0.2)
    settings, counters = new_settings(lite), Counters(lite)
    with running_thread(Relay(settings, lite.engine)) as relay:
        counters.raise_some(random.Random(1))
        wait_until(lambda: relay.relay.progress.events > 0 and not lite.ids())
        kafka.pause()
        try:
            wait_until(lambda: relay.relay.progress.state == "waiting")
            assert f"Kafka at {kafka.bootstrap_servers} has not answered for" in caplog.text
            assert "asking for the brokers" in caplog.text
        finally:
            kafka.resume()
        wait_until(lambda: relay.relay.progress.state == "leading")
        assert relay.ended_by is None


def test_a_relay_asked_to_stop_while_kafka_is_away_does_so_and_loses_nothing(
    lite: Primary, new_settings: NewSettings, kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_loop, "_STOP_TIMEOUT_S", 1.0)
    settings, counters, rng = new_settings(lite), Counters(lite), random.Random(1)
    with running_thread(Relay(settings, lite.engine)) as relay:
        wait_until(lambda: relay.relay.progress.state == "leading")
        kafka.pause()
        for _ in range(10):
            counters.raise_some(rng)
        # A claim is recorded before it is sent.
        wait_until(lambda: lite.claims() > 0)
    try:
        assert relay.ended_by is None
        assert lite.ids()
    finally:
        kafka.resume()
    Relay(settings, lite.engine).run_once()
    assert_all_arrived(settings, counters)


def test_an_embedded_relay_waits_for_a_kafka_that_is_not_there_yet(
    lite: Primary, new_settings: NewSettings, kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Users wait 10 s for a broker.
    monkeypatch.setattr(clients, "reach", partial(clients.reach, timeout=1))
    settings, counters = new_settings(lite), Counters(lite)
    # For a client that only begins to connect, a paused broker is as good as none, and it is back at once.
    kafka.pause()
    try:
        with running(settings) as relay:
            for n in range(5):
                counters.raise_some(random.Random(n))
            wait_until(lambda: relay.progress.state == "waiting")
            kafka.resume()
            wait_until(lambda: not lite.ids(), seconds=60)
            assert relay.error is None
    finally:
        kafka.resume()
    assert_all_arrived(settings, counters)


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_database_that_crashes_is_waited_for(
    request: pytest.FixtureRequest, new_database: Callable[[str], str], new_settings: NewSettings, engine: str
) -> None:
    server = request.getfixturevalue(engine)
    assert isinstance(server, DatabaseServer)
    with primary_at(new_database(engine)) as primary:
        settings, counters, rng = new_settings(primary), Counters(primary), random.Random(1)
        for _ in range(3):
            counters.raise_some(rng)
        with running_thread(Relay(settings, primary.engine)) as relay:
            wait_until(lambda: relay.relay.progress.events > 0)
            server.kill()
            wait_until(lambda: relay.relay.progress.state == "waiting")
            server.start()
            primary.engine.dispose()
            counters.raise_some(rng)
            wait_until(lambda: not primary.ids())
            assert relay.ended_by is None
        assert_all_arrived(settings, counters)
