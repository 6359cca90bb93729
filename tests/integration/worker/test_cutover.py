"""A loading replica becomes consistent only when everything up to its cutover is committed in Kafka, and read."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Producer

from fixtures.databases import NewDatabase
from rowcast.consumer.reading import load
from rowcast.shared.kafka.topic_names import table_topic
from servers import Broker
from support.kafka_source import Source
from support.worker_runs import CUSTOMER, ORDERS, Database, settings_for, work_once


class Uncommitted(Source):
    """Publish messages in a single open Kafka transaction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.plain = self.producer

    def open(self) -> None:
        self.producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 0, "transactional.id": self.name})
        self.producer.init_transactions(10)
        self.producer.begin_transaction()


def test_a_replica_is_not_consistent_before_the_events_that_its_last_end_counts(
    kafka: Broker, source_name: str, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The END and the event of the other table arrive before the order, because the partition of the order is slow."""
    # The first worker never gets the rest of the transaction.
    monkeypatch.setattr(load, "_END_GRACE_S", 0.3)
    url = new_database("sqlite")
    source = Uncommitted(kafka.bootstrap_servers, source_name)
    source.add(CUSTOMER, ORDERS)
    held: list[tuple[Any, ...]] = []
    source.open()
    send = source.send

    def slower(topic: str, *message: Any, **where: Any) -> None:
        if topic == table_topic(source_name, "public", "orders"):
            held.append((topic, *message))
        else:
            send(topic, *message, **where)

    source.send = slower  # type: ignore[method-assign]
    source.put(
        ("c", "orders", {"id": 7, "customer_id": 1, "note": None, "amount": None}),
        ("c", "customer", {"id": 1, "email": "a"}),
    )
    source.flush()
    settings, replica = settings_for(source_name, kafka.bootstrap_servers, url), Database(url)
    work_once(settings)
    assert replica.rows("customer") == [(1, "a")]
    assert replica.state() == "loading"
    for message in held:
        send(*message)
    source.flush()
    source.producer.commit_transaction(10)
    work_once(settings)
    assert replica.rows("orders", "id") == [(7,)]
    assert replica.state() == "consistent"
