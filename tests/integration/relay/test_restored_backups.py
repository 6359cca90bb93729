"""A database or a Kafka has lost data. Consumers must not mistake new events for lost events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from confluent_kafka import Producer

from rowcast.producer.outbox.snapshot_requests import SnapshotRequests
from rowcast.producer.relay import Relay
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.kafka.marker import Markers, marker_message
from rowcast.producer.relay.kafka.publisher import Publisher
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.kafka.messages import ChangeEvent, TransactionEvent
from servers import Broker
from support.relay.primary import ORDERS, Primary, line, primary_at
from support.relay.settings import NewSettings
from support.relay.threads import running_thread, wait_until
from support.relay.topic_reader import read_topics


@contextmanager
def sent_and_not_committed(settings: Settings, lsn: int) -> Iterator[None]:
    """Send a marker whose claim is missing in the database, and do not commit it in Kafka."""
    producer = Producer({**settings.kafka, "transactional.id": f"rowcast.{settings.source}-1"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(*marker_message(settings.source, lsn))
    assert producer.flush(30) == 0
    yield


def test_after_a_restore_nothing_is_published_until_an_operator_allows_a_new_timeline(
    lite: Primary, new_settings: NewSettings, new_database: Callable[[str], str], kafka: Broker
) -> None:
    """Workers read uncommitted events, and would skip changes under lsns that they have seen."""
    settings = new_settings(lite)
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    Relay(settings, lite.engine).run_once()
    with sent_and_not_committed(settings, 120), primary_at(new_database("sqlite")) as restored:
        restored.add_shapes(ORDERS)
        restored.add("b", line(ORDERS, "c", 2))
        again = new_settings(restored)
        for number, error in ((None, r"--new-timeline 2`"), (3, r"--new-timeline 3: .* the next is 2")):
            with pytest.raises(ConfigurationError, match=error):
                Relay(again, restored.engine, new_timeline=number).run_once()
        assert restored.ids() != []
        assert len(read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream) == 3
        Relay(again, restored.engine, new_timeline=2).run_once()
        restored.add("c", line(ORDERS, "c", 3))
        # A supervisor starts the relay again with the same arguments.
        Relay(again, restored.engine, new_timeline=2).run_once()
    stream = read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream
    assert [event.key["id"] for event in stream if isinstance(event, ChangeEvent) and event.op == "c"] == [1, 2, 3]
    assert [event.lsn for event in stream][:3] == [1, 2, 3]
    # A claim that was sent in part has no marker. Therefore lsns above the last marker are in use, too.
    assert stream[3].lsn > 120 + 1_000_000
    boundaries = [event for event in stream if isinstance(event, TransactionEvent)]
    assert [event.timeline for event in boundaries[:2]] == [1, 1]
    assert {event.timeline for event in boundaries[2:]} == {2}


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ["postgresql", "mariadb", "mysql", "sqlite"])
def test_a_new_timeline_publishes_all_rows_again(
    engine: str, new_settings: NewSettings, new_database: Callable[[str], str], kafka: Broker
) -> None:
    with primary_at(new_database(engine)) as primary:
        settings = new_settings(primary)
        primary.add_shapes(ORDERS)
        with primary.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE orders (id INTEGER PRIMARY KEY, note VARCHAR(20))")
            connection.exec_driver_sql("INSERT INTO orders (id, note) VALUES (1, 'a'), (2, 'b')")
        primary.add("a", line(ORDERS, "c", 1))
        Relay(settings, primary.engine).run_once()
        Relay(settings, primary.engine, new_timeline=2).run_once()
        with primary.engine.connect() as connection:
            lease = connection.execute(sa.select(primary.tables.lease)).one()
            assert [s.state.value for s in SnapshotRequests(primary.tables).all(connection)] == ["done"]
    assert (lease.timeline, lease.timeline_lsn) == (2, 4)
    stream = read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream
    assert [event.key["id"] for event in stream if isinstance(event, ChangeEvent) and event.op == "r"] == [1, 2]


def test_a_backup_from_before_a_timeline_needs_the_next_timeline(
    lite: Primary, new_settings: NewSettings, new_database: Callable[[str], str]
) -> None:
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    settings = new_settings(lite)
    Relay(settings, lite.engine).run_once()
    Relay(settings, lite.engine, new_timeline=2).run_once()
    with primary_at(new_database("sqlite")) as restored:
        restored.add_shapes(ORDERS)
        with pytest.raises(ConfigurationError, match=r"timeline 2 of this source.*--new-timeline 3`"):
            Relay(new_settings(restored), restored.engine).run_once()


def test_a_relay_of_the_wrong_database_does_not_disturb_the_leader(
    lite: Primary, new_settings: NewSettings, new_database: Callable[[str], str]
) -> None:
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    with running_thread(Relay(new_settings(lite), lite.engine)) as leader:
        wait_until(lambda: not lite.ids())
        with primary_at(new_database("sqlite")) as wrong:
            wrong.add_shapes(ORDERS)
            with pytest.raises(ConfigurationError, match="may have been restored from a backup"):
                Relay(new_settings(wrong), wrong.engine).run_once()
        lite.add("b", line(ORDERS, "c", 2))
        wait_until(lambda: not lite.ids())
        assert leader.relay.progress.epoch == 1


def test_after_a_crash_lsns_go_on_where_they_were(lite: Primary, new_settings: NewSettings, kafka: Broker) -> None:
    """A recorded claim holds the events that were sent and not committed. Therefore no event is lost or skipped."""
    settings = new_settings(lite)
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    Relay(settings, lite.engine).run_once()
    with lite.engine.begin() as connection:
        connection.execute(sa.update(lite.tables.lease).values(next_lsn=121))
    with sent_and_not_committed(settings, 120):
        lite.add("b", line(ORDERS, "c", 2))
        Relay(settings, lite.engine).run_once()
    stream = read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream
    assert [event.lsn for event in stream] == [1, 2, 3, 121, 122, 123]


def test_a_commit_that_kafka_does_not_show_yet_is_no_loss(
    lite: Primary, new_settings: NewSettings, monkeypatch: pytest.MonkeyPatch, kafka: Broker
) -> None:
    """Kafka acknowledges a commit before each partition shows it. Fencing waits for the partitions."""
    settings = new_settings(lite)
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    Relay(settings, lite.engine).run_once()
    lite.add("b", line(ORDERS, "c", 2))
    looks, look = [], Publisher.peek_markers

    def late(publisher: Publisher) -> Markers:
        looks.append(look(publisher))
        return Markers(None, None) if len(looks) == 1 else looks[-1]

    monkeypatch.setattr(Publisher, "peek_markers", late)
    Relay(settings, lite.engine).run_once()
    assert [e.lsn for e in read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


@pytest.mark.parametrize("mode", ["when_needed", "initial"])
def test_a_kafka_that_has_lost_its_last_events_is_noticed(
    lite: Primary, new_settings: NewSettings, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    """Kafka had committed the events of all deleted outbox rows. A Kafka with fewer events has lost some."""
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    settings = new_settings(lite, snapshot=mode)
    Relay(settings, lite.engine).run_once()
    with lite.engine.begin() as connection:
        connection.execute(sa.update(lite.tables.lease).values(next_lsn=31, published_lsn=30))
    loss = "has committed events up to lsn 3 of this source, but had committed events up to lsn 30 before"
    if mode == "initial":
        with pytest.raises(ConfigurationError, match=loss):
            Relay(settings, lite.engine).run_once()
    with caplog.at_level(logging.WARNING):
        # With "when_needed", the user has allowed the relay to read all rows again.
        Relay(settings, lite.engine, new_timeline=None if mode == "when_needed" else 2).run_once()
    assert loss in caplog.text
    with lite.engine.connect() as connection:
        assert len(SnapshotRequests(lite.tables).all(connection)) == 1
        lease = connection.execute(sa.select(lite.tables.lease)).one()
    assert (lease.timeline, lease.timeline_lsn) == (2, 31)


@pytest.mark.parametrize(("before", "now"), [("off", "on"), ("remote_apply", "remote_apply")])
def test_on_postgresql_a_claim_is_durable_before_it_is_sent(
    new_database: Callable[[str], str], before: str, now: str
) -> None:
    url = sa.make_url(new_database("postgresql")).update_query_dict({"options": f"-c synchronous_commit={before}"})
    with primary_at(url) as primary, Connections(primary.engine) as connections:
        for connection in (connections.reader, connections.writer):
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == now
