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
from rowcast.producer.relay.kafka.marker import marker_message
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.messages import ChangeEvent
from servers import Broker
from support.relay.primary import ORDERS, Primary, line, primary_at
from support.relay.settings import NewSettings
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


def test_lsns_that_workers_have_seen_do_not_come_again(
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
        Relay(new_settings(restored), restored.engine).run_once()
    stream = read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream
    assert [event.key for event in stream if isinstance(event, ChangeEvent)] == [{"id": 1}, {"id": 2}]
    assert [event.lsn for event in stream][:3] == [1, 2, 3]
    # A claim that was sent in part has no marker. Therefore lsns above the last marker are in use, too.
    assert stream[3].lsn > 120 + 1_000_000


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


@pytest.mark.parametrize(("mode", "asked"), [("when_needed", 1), ("initial", 0)])
def test_a_kafka_that_has_lost_its_last_events_is_noticed(
    lite: Primary, new_settings: NewSettings, caplog: pytest.LogCaptureFixture, mode: str, asked: int
) -> None:
    """Kafka had committed the events of all deleted outbox rows. A Kafka with fewer events has lost some."""
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    settings = new_settings(lite, snapshot=mode)
    Relay(settings, lite.engine).run_once()
    with lite.engine.begin() as connection:
        connection.execute(sa.update(lite.tables.lease).values(next_lsn=31, published_lsn=30))
    with caplog.at_level(logging.WARNING):
        Relay(settings, lite.engine).run_once()
    assert (
        "has committed events up to lsn 3 of this source, but had committed events up to lsn 30 before" in caplog.text
    )
    with lite.engine.connect() as connection:
        assert len(SnapshotRequests(lite.tables).all(connection)) == asked


@pytest.mark.parametrize(("before", "now"), [("off", "on"), ("remote_apply", "remote_apply")])
def test_on_postgresql_a_claim_is_durable_before_it_is_sent(
    new_database: Callable[[str], str], before: str, now: str
) -> None:
    url = sa.make_url(new_database("postgresql")).update_query_dict({"options": f"-c synchronous_commit={before}"})
    with primary_at(url) as primary, Connections(primary.engine) as connections:
        for connection in (connections.reader, connections.writer):
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == now
