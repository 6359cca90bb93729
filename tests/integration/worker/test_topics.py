"""The worker reads every kind of topic: with duplicates, partitions, gaps, invalid messages, or created later."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from rowcast.consumer import replica_status
from rowcast.consumer.reading import gap_detector, load, reader_thread, subscription
from rowcast.consumer.reading import topic_metadata as consumer_topics
from rowcast.consumer.running.run_worker import run_worker
from rowcast.consumer.status.workers import group_id
from rowcast.consumer.worker import main_loop
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError, UnreachableError
from rowcast.shared.kafka.clients import reach
from rowcast.shared.kafka.messages import TransactionEvent, transaction_value
from rowcast.shared.kafka.mock_cluster import embedded_kafka
from rowcast.shared.kafka.topic_names import table_topic, transaction_topic
from servers import Broker
from support.kafka_admin import create_partitions
from support.kafka_source import Source, column, shape
from support.worker_runs import CUSTOMER, NAME, ORDERS, Database, running_worker, settings_for, work_once

ITEM = shape("item", column("n"), column("note", "text"))


def item(id: int, n: int = 0, note: str = "") -> dict[str, Any]:
    return {"id": id, "n": n, "note": note}


@pytest.fixture
def url(new_database: Callable[[str], str]) -> str:
    """Return a SQLite database, because workers read messages alike for every engine."""
    return new_database("sqlite")


@pytest.fixture
def replica(url: str) -> Database:
    return Database(url)


@pytest.fixture
def source(kafka: Broker, source_name: str) -> Source:
    return Source(kafka.bootstrap_servers, source_name)


@pytest.fixture
def settings(kafka: Broker, source_name: str, url: str) -> Settings:
    return settings_for(source_name, kafka.bootstrap_servers, url)


def with_options(settings: Settings, **options: Any) -> Settings:
    return settings.model_copy(update={"replicas": {NAME: settings.replicas[NAME].model_copy(update=options)}})


def begin(source: Source, settings: Settings, replica: Database, *shapes: Any) -> None:
    source.add(*(shapes or (ITEM,)))
    work_once(settings)
    assert replica.state() == "consistent"


@pytest.mark.parametrize("partitions", [1, 2, 4])
def test_transactions_over_partitions_come_whole_and_in_order(
    source: Source, settings: Settings, replica: Database, partitions: int
) -> None:
    source.partitions = partitions
    begin(source, settings, replica, CUSTOMER, ORDERS)
    for n in range(50):
        source.put(
            *(("c" if n == 0 else "u", "customer", {"id": i, "email": f"{i}-{n}"}) for i in range(10)),
            *(("c", "orders", {"id": 10 * n + i, "customer_id": i, "note": None, "amount": None}) for i in range(10)),
        )
    source.flush()
    assert work_once(settings).transactions == 50
    assert replica.rows("customer") == [(i, f"{i}-49") for i in range(10)]
    assert len(replica.rows("orders")) == 500


def add_partitions(source: Source, table: str, total: int) -> None:
    """Add partitions to a table's topic. The source uses them at once."""
    topic = table_topic(source.name, "public", table)
    create_partitions(source.bootstrap, topic, total)
    admin = AdminClient({"bootstrap.servers": source.bootstrap})
    deadline = time.monotonic() + 10
    while len(admin.list_topics(topic, timeout=10).topics[topic].partitions) < total:
        assert time.monotonic() < deadline
    # A new producer knows all partitions.
    source.producer = Producer({"bootstrap.servers": source.bootstrap, "linger.ms": 0, "enable.idempotence": True})


def test_partitions_added_to_a_topic_are_found_with_their_first_events(
    source: Source, settings: Settings, replica: Database, caplog: pytest.LogCaptureFixture
) -> None:
    begin(source, settings, replica)
    with running_worker(settings) as worker:
        worker.until(lambda p: p.active)
        add_partitions(source, "item", 4)
        source.transaction(*(("c", "item", item(n)) for n in range(20)))
        worker.until(lambda p: p.transactions == 1, timeout=gap_detector.GRACE_S)
    assert len(replica.rows("item")) == 20
    assert "catching up by key" not in caplog.text


def test_a_new_replica_after_partitions_were_added(source: Source, settings: Settings, replica: Database) -> None:
    """The old events of a key are in a long partition, and its new events in short ones that are read at once."""
    source.add(ITEM)
    source.put(*(("c", "item", item(n, 1)) for n in range(3_000)))
    source.flush()
    add_partitions(source, "item", 4)
    source.transaction(
        *(("u", "item", item(n, 2)) for n in range(2_800, 2_900)),
        *(("d", "item", item(n)) for n in range(2_900, 3_000)),
    )
    work_once(with_options(settings, batch_events=50, buffer_events=100))
    rows = replica.rows("item", "id", "n")
    assert len(rows) == 2_900
    assert {id for id, n in rows if n == 2} == set(range(2_800, 2_900))
    assert replica.state() == "consistent"


def test_a_transaction_without_its_end_waits(source: Source, settings: Settings, replica: Database) -> None:
    begin(source, settings, replica)
    source.transaction(("c", "item", item(1)))
    source.transaction(("c", "item", item(2)), end=False, id="open")
    assert work_once(settings).events == 1
    assert replica.rows("item", "id") == [(1,)]
    source.lsn += 1
    end = TransactionEvent("END", "open", 0, source.lsn, 1, {"public.item": 1})
    source.send(transaction_topic(source.name), transaction_value(end), b"{}", 0)
    source.flush()
    assert work_once(settings).events == 1
    assert replica.rows("item", "id") == [(1,), (2,)]


def test_events_published_again_after_a_crash_have_no_effect(
    source: Source, settings: Settings, replica: Database
) -> None:
    begin(source, settings, replica)
    before = source.lsn
    source.transaction(("c", "item", item(1, 1)), ("c", "item", item(2, 1)))
    work_once(settings)
    source.transaction(("u", "item", item(1, 2)))
    after = source.lsn
    # Publish the first transaction again, with its old lsns, and the beginning of the second.
    source.lsn = before
    source.transactions -= 2
    source.transaction(("c", "item", item(1, 1)), ("c", "item", item(2, 1)))
    source.transaction(("u", "item", item(1, 2)), end=False)
    source.lsn = after
    source.transaction(("u", "item", item(2, 3)))
    assert work_once(settings).transactions == 2
    assert replica.rows("item", "id", "n") == [(1, 2), (2, 3)]


def test_a_transaction_whose_first_events_were_sent_twice(
    source: Source, settings: Settings, replica: Database
) -> None:
    begin(source, settings, replica)
    before = source.lsn
    source.transaction(("c", "item", item(1)), ("c", "item", item(2)), end=False, id="x")
    source.lsn = before
    source.transaction(("c", "item", item(1)), ("c", "item", item(2)), ("c", "item", item(3)), id="x")
    assert work_once(settings).events == 3
    assert replica.rows("item", "id") == [(1,), (2,), (3,)]


BAD = {
    "no JSON": (b"{]", b'{"id":1}', "invalid JSON"),
    "another document": (b'{"a":1}', b'{"id":1}', "field required"),
    "no key": (None, None, "key"),
    "another key": (None, b'{"nr":1}', r"the key's columns are \['nr'\]"),
    "a column too few": (None, b'{"id":1}', "missing n, note"),
    "half of it": (b'{"before":null,"after":{"id":1', b'{"id":1}', "invalid JSON"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("state", ["loading", "consistent"])
def test_an_invalid_event_stops_the_worker(
    source: Source, settings: Settings, replica: Database, kind: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_thread, "_BAD_MESSAGE_GRACE_S", 0.1)
    value, key, reason = BAD[kind]
    source.add(ITEM)
    if state == "consistent":
        work_once(settings)
    topic = table_topic(source.name, "public", "item")
    source.transaction(("c", "item", item(1)))
    row = {"id": 1} if kind == "a column too few" else item(1)
    source.send(topic, value or source.envelope("u", ITEM, row, source.lsn + 1, "9", 1, 1), key)
    source.lsn += 1
    source.transaction(("c", "item", item(2)))
    for _ in range(2):
        with pytest.raises(DataError, match=rf"topic {topic}, partition 0, offset 1: .*({reason})"):
            work_once(settings)
        assert replica.rows("item", "id") == [(1,)]
    positions = replica.rows("rowcast_position", "topic", "next_offset")
    assert (topic, 1) in positions


def test_a_bad_message_on_the_transaction_topic(source: Source, settings: Settings, replica: Database) -> None:
    begin(source, settings, replica)
    source.transaction(("c", "item", item(1)))
    source.send(transaction_topic(source.name), b'{"status":"MIDDLE"}', b"{}", 0)
    source.flush()
    with pytest.raises(DataError, match=r"transaction, partition 0, offset 2: not a transaction event"):
        work_once(settings)
    assert replica.rows("item", "id") == [(1,)]


def test_events_that_compaction_has_removed(
    source: Source, settings: Settings, replica: Database, caplog: pytest.LogCaptureFixture
) -> None:
    begin(source, settings, replica, CUSTOMER, ORDERS)
    source.transaction(("c", "customer", {"id": 1, "email": "a"}))
    lost = source.transaction(("c", "customer", {"id": 2, "email": "b"}), end=False)
    source.lsn += 1
    end = TransactionEvent("END", lost, 0, source.lsn, 2, {"public.customer": 2})
    source.send(transaction_topic(source.name), transaction_value(end), b"{}", 0)
    source.transaction(
        ("u", "customer", {"id": 1, "email": "b"}), ("u", "customer", {"id": 2, "email": "a"}),
        ("c", "orders", {"id": 1, "customer_id": 2, "note": None, "amount": None}),
    )  # fmt: skip
    work_once(settings)
    assert "lacks 1 events of table public.customer" in caplog.text
    assert replica.rows("customer") == [(1, "b"), (2, "a")]
    assert replica.rows("orders", "id") == [(1,)]
    assert replica.state() == "consistent"
    source.transaction(("d", "orders", {"id": 1}), ("d", "customer", {"id": 2}))
    assert work_once(settings).transactions == 1


def test_events_that_never_come_and_nothing_after_them(
    source: Source, settings: Settings, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gap_detector, "GRACE_S", 0.5)
    begin(source, settings, replica)
    lost = source.transaction(("c", "item", item(1)), end=False)
    source.lsn += 1
    end = TransactionEvent("END", lost, 0, source.lsn, 5, {"public.item": 5})
    source.send(transaction_topic(source.name), transaction_value(end), b"{}", 0)
    source.flush()
    with running_worker(settings) as worker:
        worker.until(lambda p: p.state == "loading" and p.active)
        worker.until(lambda p: p.state == "consistent")
    assert replica.rows("item", "id") == [(1,)]


def test_a_first_start_long_after_the_transactions(
    source: Source, settings: Settings, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction topic is kept by time, so the ENDs of old events are gone."""
    monkeypatch.setattr(load, "_END_GRACE_S", 0.2)
    source.add(CUSTOMER, ORDERS)
    for n in range(20):
        rows = ("c", "orders", {"id": n, "customer_id": n, "note": None, "amount": None})
        source.transaction(rows, ("c", "customer", {"id": n, "email": str(n)}), begin=False, end=False)
    work_once(settings)
    assert len(replica.rows("orders")) == len(replica.rows("customer")) == 20
    assert replica.state() == "consistent"


def test_a_first_start_while_the_source_is_busy(source: Source, settings: Settings, replica: Database) -> None:
    source.partitions = 3
    source.add(CUSTOMER, ORDERS)
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            number = {"id": written, "email": str(written)}
            orders = ({"id": 3 * written + i, "customer_id": written, "note": None, "amount": None} for i in range(3))
            source.transaction(("c", "customer", number), *(("c", "orders", one) for one in orders))
            written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with running_worker(settings) as worker:
            worker.until(lambda p: p.state == "consistent" and p.transactions > 100)
            stop.set()
            writer.join()
            worker.until(lambda p: p.lsn == source.lsn)
    finally:
        stop.set()
        writer.join()
    assert len(replica.rows("customer")) == written
    assert len(replica.rows("orders")) == 3 * written


def test_a_restart_in_the_middle_of_loading(source: Source, settings: Settings, replica: Database) -> None:
    source.partitions = 3
    source.add(ITEM)
    for n in range(300):
        source.put(("c", "item", item(n, 1)))
    source.flush()
    small = with_options(settings, batch_events=20)
    stop = threading.Event()

    def stop_soon(progress: Any) -> None:
        if progress.events >= 100:
            stop.set()

    first = run_worker(small, NAME, stop=stop, on_progress=stop_soon)
    assert first.events < 300
    assert replica.state() == "loading"
    rest = work_once(settings)
    assert replica.rows("item", "id", "n") == sorted(((n, 1) for n in range(300)), key=repr)
    assert first.events + rest.events == 300
    assert replica.state() == "consistent"


def test_a_transaction_larger_than_the_buffer(source: Source, settings: Settings, replica: Database) -> None:
    source.partitions = 3
    begin(source, settings, replica)
    source.put(*(("c", "item", item(n)) for n in range(2000)))
    for n in range(100):
        source.put(*(("u", "item", item(10 * n + i, 1)) for i in range(10)))
    source.flush()
    tight = with_options(settings, batch_events=50, buffer_events=100)
    assert work_once(tight).events == 3000
    assert len([row for row in replica.rows("item", "id", "n") if row[1] == 1]) == 1000


def test_a_table_that_appears_later(source: Source, settings: Settings, replica: Database) -> None:
    begin(source, settings, replica, CUSTOMER)
    with running_worker(settings) as worker:
        worker.until(lambda p: p.active)
        source.add(ORDERS)
        source.transaction(
            ("c", "customer", {"id": 1, "email": "a"}),
            ("c", "orders", {"id": 1, "customer_id": 1, "note": None, "amount": "1.00"}),
        )
        worker.until(lambda p: p.transactions == 1)
    assert replica.rows("orders", "id", "customer_id") == [(1, 1)]
    assert replica.state() == "consistent"


def test_a_topic_that_the_server_does_not_know_yet(
    source: Source, settings: Settings, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka's servers learn of a topic at different times.

    No END counts the rows of a snapshot, so no END waits for them.
    """
    source.add(ITEM)
    source.event("r", ITEM.full_name, item(1), 1, None)
    source.lsn = 1
    source.transaction()
    hidden = table_topic(settings.source, "public", "item")
    looks = 0

    def partitions_of(consumer: Any, topics: Iterable[str]) -> dict[str, list[int]]:
        nonlocal looks
        looks += 1
        return consumer_topics.partitions_of(consumer, [t for t in topics if looks > 2 or t != hidden])

    monkeypatch.setattr(subscription, "partitions_of", partitions_of)
    work_once(settings)
    assert looks > 2
    assert replica.state() == "consistent"
    assert replica.rows("item") == [(1, 0, "")]


def test_a_table_that_the_configuration_adds(source: Source, settings: Settings, replica: Database) -> None:
    """The table's events are older than the replica's position, so their transactions do not come again."""
    narrow = with_options(settings, tables=("*.customer",))
    source.add(CUSTOMER, ORDERS)
    work_once(narrow)
    source.transaction(
        ("c", "customer", {"id": 1, "email": "a"}),
        ("c", "orders", {"id": 1, "customer_id": 1, "note": None, "amount": None}),
    )
    assert work_once(narrow).transactions == 1
    work_once(settings)
    assert replica.rows("orders", "id") == [(1,)]
    assert replica.state() == "consistent"
    source.transaction(("d", "orders", {"id": 1}), ("d", "customer", {"id": 1}))
    assert work_once(settings).transactions == 1
    assert replica.rows("orders") == replica.rows("customer") == []


def test_once_beside_an_active_worker(
    source: Source, settings: Settings, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcast.consumer.worker.main_loop._STAND_BY_LOG_S", 0.5)
    begin(source, settings, replica)
    with running_worker(settings) as worker:
        worker.until(lambda p: p.active)
        source.transaction(("c", "item", item(1)))
        assert work_once(settings).events == 0
        assert replica.rows("item", "id") == [(1,)]
        assert worker.progress.active


def test_an_older_shape_that_compaction_has_removed(source: Source, settings: Settings, replica: Database) -> None:
    source.add(shape("item", column("n")))
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    source.add(ITEM)
    source.transaction(("c", "item", item(2, 2, "new")))
    work_once(settings)
    assert replica.rows("item", "id", "n", "note") == [(1, 1, None), (2, 2, "new")]


def test_the_worker_waits_for_the_relays_first_start(
    source: Source, settings: Settings, replica: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert work_once(settings).events == 0
    assert "nothing to apply" in caplog.text
    with running_worker(settings) as worker:
        source.add(ITEM)
        source.transaction(("c", "item", item(1)))
        worker.until(lambda p: p.events == 1)
    assert replica.rows("item", "id") == [(1,)]


def test_no_broker_at_the_start(url: str, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_loop, "reach", partial(reach, timeout=1))
    address = f"127.0.0.1:{closed_port}"
    with pytest.raises(UnreachableError, match=f"cannot reach Kafka at {address}"):
        work_once(settings_for("x", address, url))


def test_the_lag_is_reported_and_becomes_0(source: Source, settings: Settings, kafka: Broker) -> None:
    assert replica_status(settings, NAME).state is None
    source.add(ITEM)
    source.transaction(("c", "item", item(1)), ("d", "item", item(1)))
    work_once(settings)
    status = replica_status(settings, NAME)
    assert (status.state, status.tx, status.behind_ms) == ("consistent", "701", 0)
    source.transaction(("c", "item", item(1)), ("c", "item", item(2)))
    status = replica_status(settings, NAME)
    assert {t.topic.rpartition(".")[2]: t.records for t in status.topics} == {"item": 2, "transaction": 2}
    assert 0 < status.behind_ms < 60_000
    with running_worker(settings) as worker:
        worker.until(lambda p: p.events == 2)
    assert replica_status(settings, NAME).records == 0
    group = {"bootstrap.servers": kafka.bootstrap_servers, "group.id": group_id(source.name, NAME)}
    monitor = Consumer(group)
    topic = table_topic(source.name, "public", "item")
    assert monitor.committed([TopicPartition(topic, 0)], timeout=10)[0].offset == 5
    monitor.close()


@pytest.fixture
def embedded() -> Iterator[str]:
    with embedded_kafka("worker") as bootstrap:
        yield bootstrap


def test_the_embedded_kafka_with_its_four_partitions(embedded: str, source_name: str, url: str) -> None:
    source = Source(embedded, source_name)
    settings = settings_for(source_name, embedded, url)
    source.add(CUSTOMER, ORDERS, topics=False)
    for n in range(40):
        source.put(
            ("c", "orders", {"id": n, "customer_id": n, "note": None, "amount": None}),
            ("c", "customer", {"id": n, "email": str(n)}),
        )
    source.flush()
    with running_worker(settings) as worker:
        worker.until(lambda p: p.state == "consistent")
        for n in range(40):
            source.put(("d", "customer", {"id": n}), ("d", "orders", {"id": n}))
            source.put(("c", "customer", {"id": 100 + n, "email": str(n)}))
        source.flush()
        worker.until(lambda p: p.transactions == 80)
    assert Database(url).rows("customer", "id") == sorted(((100 + n,) for n in range(40)), key=repr)
    assert Database(url).rows("orders") == []
