"""A rebuilt replica has the rows of the topics, and readers see either the whole old or the whole new tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from rowcast.consumer.reading import transaction_records
from rowcast.consumer.rebuild.last_end import last_committed_end
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.positions import register_from
from rowcast.consumer.replica.worker_tables import create_tables
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.messages import TransactionEvent, parse_transaction
from servers import Broker
from support.kafka_source import Source
from support.rebuilds import rebuilt
from support.worker_runs import CUSTOMER, ORDERS, Database, running_worker, settings_for, work_once

ENGINES = ["postgresql", "mariadb", "mysql", "sqlite"]


@pytest.fixture(params=ENGINES)
def replica(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> Database:
    return Database(new_database(request.param))


@pytest.fixture
def source(kafka: Broker, source_name: str) -> Source:
    """Publish customers and orders."""
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(CUSTOMER, ORDERS)
    source.transaction(
        ("c", "customer", {"id": 1, "email": "a@example.com"}),
        ("c", "customer", {"id": 2, "email": "b@example.com"}),
        ("c", "orders", {"id": 10, "customer_id": 1, "note": "first", "amount": "1.50"}),
    )
    return source


@pytest.fixture
def settings(source: Source, replica: Database) -> Settings:
    return settings_for(source.name, source.bootstrap, replica.engine.url.render_as_string(hide_password=False))


def test_a_rebuild_replaces_wrong_rows_and_the_worker_goes_on(
    settings: Settings, source: Source, replica: Database
) -> None:
    work_once(settings)
    replica.execute("UPDATE orders SET note = 'wrong'", "INSERT INTO customer (id, email) VALUES (99, 'extra')")
    replica.execute("UPDATE rowcast_replica SET verified = 'different', verified_ms = 1, verified_differing = 2")
    result = rebuilt(settings)
    assert result.tables == ("public.customer", "public.orders")
    assert replica.rows("customer", "id") == [(1,), (2,)]
    assert replica.rows("orders", "note") == [("first",)]
    # The comparison was of the replaced tables.
    assert replica.rows("rowcast_replica", "verified") == [(None,)]
    assert sorted(t for t in replica.tables() if not t.startswith("rowcast_")) == ["customer", "orders"]
    assert not [t for t in replica.tables() if "_new_" in t or "_old_" in t or "swap" in t]
    assert [key["referred_table"] for key in replica.foreign_keys("orders")] == ["customer"]
    source.transaction(("c", "orders", {"id": 11, "customer_id": 2, "note": "second", "amount": "2.50"}))
    assert work_once(settings).state == "consistent"
    assert replica.rows("orders", "note") == [("first",), ("second",)]


@pytest.mark.parametrize("replica", ["sqlite"], indirect=True)
def test_a_rebuild_reads_no_more_ends_than_it_needs(
    settings: Settings, source: Source, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        source.put(("c", "customer", {"id": 100 + number, "email": f"{number}@example.com"}))
    source.flush()
    read: list[int] = []

    def parse(value: bytes) -> TransactionEvent:
        event = parse_transaction(value)
        read.append(event.lsn)
        return event

    monkeypatch.setattr(transaction_records, "parse_transaction", parse)
    monkeypatch.setattr(transaction_records, "read_transactions", lambda _: None)
    rebuilt(settings)
    assert set(read) == {source.lsn}
    assert len(replica.rows("customer")) == 102
    source.transaction(("u", "customer", {"id": 100, "email": "new@example.com"}))
    assert work_once(settings).state == "consistent"
    assert ("new@example.com",) in replica.rows("customer", "email")


@pytest.mark.parametrize("replica", ["sqlite"], indirect=True)
def test_a_transaction_that_kafka_has_not_committed_is_read_whole(source: Source, settings: Settings) -> None:
    before = last_committed_end(settings)
    open_one = Source(source.bootstrap, source.name, lsn=source.lsn, transactions=source.transactions)
    open_one.shapes = source.shapes
    open_one.producer = Producer({"bootstrap.servers": source.bootstrap, "transactional.id": source.name})
    open_one.producer.init_transactions(30)
    open_one.producer.begin_transaction()
    open_one.transaction(("c", "customer", {"id": 3, "email": "c@example.com"}))
    assert last_committed_end(settings) == before
    open_one.producer.commit_transaction(30)
    (after,) = last_committed_end(settings).values()
    assert [after] > list(before.values())


@pytest.mark.shared_dialect
def test_a_replica_is_rebuilt_several_times(settings: Settings, source: Source, replica: Database) -> None:
    for number in range(3):
        source.transaction(("c", "customer", {"id": 100 + number, "email": f"{number}@example.com"}))
        rebuilt(settings)
        assert len(replica.rows("customer")) == 3 + number
    work_once(settings)
    assert replica.state() == "consistent"


@pytest.mark.shared_dialect
def test_a_worker_works_on_the_old_tables_until_the_swap_and_on_the_new_ones_afterwards(
    settings: Settings, source: Source, replica: Database
) -> None:
    with running_worker(settings) as worker:
        worker.until(lambda progress: progress.state == "consistent")
        rebuilt(settings)
        source.transaction(("c", "customer", {"id": 3, "email": "c@example.com"}))
        lsn = source.lsn
        worker.until(lambda progress: progress.lsn >= lsn)
    assert replica.rows("customer", "id") == [(1,), (2,), (3,)]


def test_a_table_that_joins_a_replica_rebuilt_from_a_snapshot_has_its_rows_from_before(
    source: Source, replica: Database
) -> None:
    url = replica.engine.url.render_as_string(hide_password=False)
    create_tables(replica.engine, replica_dialect(replica.engine.dialect.name))
    with replica.engine.begin() as connection:
        register_from(connection, source.name, "rebuild", source.lsn + 1)
    # As the snapshot publishes them. Customer 2 is gone, and nothing says so.
    source.transaction(("r", "customer", {"id": 1, "email": "a@example.com"}))
    some = settings_for(source.name, source.bootstrap, url, tables=["public.customer"])
    assert work_once(some).state == "consistent"
    assert replica.rows("customer", "id") == [(1,)]
    assert work_once(settings_for(source.name, source.bootstrap, url)).state == "consistent"
    assert replica.rows("customer", "id") == [(1,)]
    assert replica.rows("orders", "note") == [("first",)]
