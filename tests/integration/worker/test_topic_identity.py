"""Topics that were created again, or have lost their beginning, stop a worker and are never skipped over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.topic_names import table_topic, transaction_topic
from servers import Broker
from support.kafka_admin import create_topics, delete_records, finish
from support.kafka_source import Source, column, shape
from support.worker_runs import Database, RunningWorker, running_worker, settings_for, work_once

ITEM = shape("item", column("n"))


@pytest.fixture
def source(kafka: Broker, source_name: str) -> Source:
    return Source(kafka.bootstrap_servers, source_name)


@pytest.fixture
def settings(kafka: Broker, source_name: str, new_database: Callable[[str], str]) -> Settings:
    return settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"))


@pytest.fixture
def replica(settings: Settings) -> Database:
    return Database(settings.replica("copy").url.get_secret_value())


def put(source: Source, *ids: int) -> None:
    for id in ids:
        source.put(("c", "item", {"id": id, "n": 0}))
    source.flush()


def ids(replica: Database) -> list[Any]:
    return sorted(row[0] for row in replica.rows("item", "id"))


def topic_of(source: Source, kind: str) -> str:
    return table_topic(source.name, "public", "item") if kind == "table" else transaction_topic(source.name)


def create_again(source: Source, topic: str, partitions: int = 1) -> None:
    """Delete a topic and create it again at once."""
    admin = AdminClient({"bootstrap.servers": source.bootstrap})
    finish(admin.delete_topics([topic]))
    deadline = time.monotonic() + 60
    while True:
        try:
            create_topics(source.bootstrap, NewTopic(topic, partitions, 1))
            break
        except KafkaException:
            assert time.monotonic() < deadline
    source.producer = Producer({"bootstrap.servers": source.bootstrap, "linger.ms": 0})


@pytest.mark.parametrize("kind", ["table", "transaction"])
@pytest.mark.parametrize("after", [2, 20], ids=["shorter", "longer"])
def test_a_topic_created_again_while_the_worker_is_away(
    source: Source, settings: Settings, replica: Database, kind: str, after: int
) -> None:
    """A longer topic has an offset that looks like the next one."""
    source.add(ITEM)
    put(source, *range(5))
    work_once(settings)
    topic = topic_of(source, kind)
    create_again(source, topic)
    put(source, *range(100, 100 + after))
    for _ in range(2):
        with pytest.raises(DataError, match=f"topic {topic} was deleted and created again.*Rebuild the replica"):
            work_once(settings)
    assert ids(replica) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["table", "transaction"])
def test_a_topic_created_again_under_a_running_worker(
    source: Source, settings: Settings, replica: Database, kind: str
) -> None:
    """The topic is refilled at once, so that the consumer reads on in the middle without any error."""
    source.add(ITEM)
    put(source, *range(5))
    worker = RunningWorker(settings)
    try:
        worker.until(lambda p: p.state == "consistent")
        create_again(source, topic_of(source, kind))
        put(source, *range(100, 120))
        deadline = time.monotonic() + 30
        while worker.error is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        worker.stop()
    with pytest.raises(DataError, match="was deleted and created again"):
        raise worker.error
    with pytest.raises(DataError, match="was deleted and created again"):
        work_once(settings)


def test_a_topic_created_again_with_fewer_partitions(source: Source, settings: Settings, replica: Database) -> None:
    source.partitions = 2
    source.add(ITEM)
    put(source, *range(5))
    work_once(settings)
    replica.execute("UPDATE rowcast_position SET topic_id = NULL")
    create_again(source, topic_of(source, "table"))
    with pytest.raises(DataError, match="has no partition 1, from which the replica has applied events"):
        work_once(settings)


def test_a_table_topic_without_records_after_the_position(
    source: Source, settings: Settings, replica: Database
) -> None:
    source.add(ITEM)
    put(source, 0, 1)
    work_once(settings)
    put(source, 2, 3, 4)
    topic = topic_of(source, "table")
    delete_records(source.bootstrap, topic, 4)
    for _ in range(2):
        with pytest.raises(DataError, match=f"topic {topic}, partition 0, offset 2 was.*begins at 4 now: 2 offsets"):
            work_once(settings)
    assert ids(replica) == [0, 1]


def test_records_deleted_up_to_the_position_do_no_harm(source: Source, settings: Settings, replica: Database) -> None:
    source.add(ITEM)
    put(source, 0, 1)
    work_once(settings)
    for kind, end in (("table", 2), ("transaction", 4)):
        delete_records(source.bootstrap, topic_of(source, kind), end)
    put(source, 2)
    assert work_once(settings).transactions == 1
    assert ids(replica) == [0, 1, 2]


def test_a_transaction_topic_without_records_after_the_position_loses_no_row(
    source: Source, settings: Settings, replica: Database, caplog: pytest.LogCaptureFixture
) -> None:
    source.add(ITEM)
    put(source, 0)
    work_once(settings)
    put(source, 1, 2, 3)
    delete_records(source.bootstrap, topic_of(source, "transaction"), 6)
    work_once(settings)
    assert "no longer holds the records that come next" in caplog.text
    assert (ids(replica), replica.state()) == ([0, 1, 2, 3], "consistent")


@pytest.mark.shared_dialect
def test_ids_are_stored_with_the_positions_and_learned_by_an_upgrade(
    source: Source, kafka: Broker, replica_url: str
) -> None:
    settings = settings_for(source.name, kafka.bootstrap_servers, replica_url)
    replica = Database(replica_url)
    source.add(ITEM)
    put(source, 0)
    work_once(settings)
    stored = replica.rows("rowcast_position", "topic", "topic_id")
    assert len({id_ for _, id_ in stored}) == len(stored) == 2
    assert all(id_ for _, id_ in stored)
    replica.execute("UPDATE rowcast_position SET topic_id = NULL")
    with running_worker(settings):
        deadline = time.monotonic() + 30
        while replica.rows("rowcast_position", "topic", "topic_id") != stored:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    replica.execute("UPDATE rowcast_position SET topic_id = 'AAAAAAAAAAEAAAAAAAAAAQ'")
    with pytest.raises(DataError, match="was deleted and created again"):
        work_once(settings)
