"""The worker applies topics in the forms of Debezium's connectors."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.databases import NewDatabase
from rowcast.consumer.debezium import debezium_reader
from rowcast.consumer.status.lag import replica_status
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError
from servers import Broker
from support.debezium_source import DebeziumSource, decimal, text
from support.kafka_source import Source, column, shape
from support.worker_runs import NAME, Database, running_worker, settings_for, work_once

ENGINES = ["postgresql", "sqlite", "mariadb"]
LEFT_OUT = "__debezium_unavailable_value"


def debezium_settings(kafka: Broker, source: str, url: str, **options: Any) -> Settings:
    replica = ReplicaSettings(url=url, **options)
    kafka_properties = {"bootstrap.servers": kafka.bootstrap_servers}
    return Settings(source=source, format="debezium", kafka=kafka_properties, replicas={NAME: replica})


@pytest.mark.parametrize("engine", ENGINES)
def test_a_replica_loads_from_a_snapshot_and_follows_whole_transactions(
    kafka: Broker, new_database: NewDatabase, source_name: str, engine: str
) -> None:
    source = DebeziumSource(kafka.bootstrap_servers, source_name)
    source.table("item", text("body", optional=False), decimal("price", 2, 10))
    source.table("note", text("word", optional=False), key=("word",))
    source.snapshot("item", {"id": 1, "body": "old", "price": "BOI="}, {"id": 2, "body": "gone", "price": None})
    source.transaction(("c", "item", {"id": 3, "body": "x" * 9_000, "price": "/w=="}), ("d", "item", {"id": 2}))
    url = new_database(engine)
    settings, replica = debezium_settings(kafka, source_name, url), Database(url)
    work_once(settings)
    assert replica.state() == "consistent"
    rows = [(i, body, None if price is None else f"{price:.2f}") for i, body, price in replica.rows("item")]
    assert rows == [(1, "old", "12.50"), (3, "x" * 9_000, "-0.01")]

    # A large value that did not change, alone and after the row's insert; a changed key; a repeated key; a truncate.
    source.transaction(
        ("c", "item", {"id": 4, "body": "kept", "price": None}),
        ("u", "item", {"id": 4, "body": LEFT_OUT, "price": "BOI="}),
        ("u", "item", {"id": 3, "body": LEFT_OUT, "price": None}),
        ("c", "note", {"id": 1, "word": "a"}),
        ("d", "note", {"id": 1, "word": "a"}),
        ("c", "note", {"id": 1, "word": "b"}),
    )
    unfinished = source.transaction(("u", "item", {"id": 1, "body": "new", "price": None}), end=False)
    work_once(settings)
    held = {i: (body, None if price is None else f"{price:.2f}") for i, body, price in replica.rows("item")}
    assert held == {1: ("old", "12.50"), 3: ("x" * 9_000, None), 4: ("kept", "12.50")}
    assert replica.rows("note", "id", "word") == [(1, "b")]
    source.end({"item": 1})
    source.transaction(("t", "note", {}), ("c", "note", {"id": 7, "word": "z"}))
    work_once(settings)
    assert ("new", None) in replica.rows("item", "body", "price")
    assert replica.rows("note", "id", "word") == [(7, "z")]
    assert replica.rows("rowcast_replica", "tx")[0][0].startswith(str(int(unfinished) + 1))
    status = replica_status(settings, NAME)
    assert (status.state, status.records) == ("consistent", 0)


@pytest.mark.parametrize("consistency", ["transaction", "row"])
def test_events_that_a_connector_repeats_take_no_row_back(
    kafka: Broker, new_database: NewDatabase, source_name: str, consistency: str
) -> None:
    """A connector that was killed begins again at its stored offset, in the middle of a transaction."""
    source = DebeziumSource(kafka.bootstrap_servers, source_name, metadata=consistency == "transaction")
    source.table("item", text("body"))
    source.snapshot("item", {"id": 1, "body": "v0"})
    after_snapshot = len(source.sent)
    for version in range(1, 6):
        source.transaction(
            ("u", "item", {"id": 1, "body": f"v{version}"}),
            ("c", "item", {"id": 10 + version, "body": "x"}),
            ("d", "item", {"id": 9 + version}),
        )
    first_time = len(source.sent)
    url = new_database("sqlite")
    settings, replica = debezium_settings(kafka, source_name, url, consistency=consistency), Database(url)
    expected = [(1, "v5"), (15, "x")]
    work_once(settings)
    assert replica.rows("item") == expected
    assert replica.state() == ("consistent" if consistency == "transaction" else "following")

    # The worker sees only the beginning of the repetition, then the rest of it, each after a restart.
    source.repeat(after_snapshot + 2, after_snapshot + 9)
    work_once(settings)
    assert replica.rows("item") == expected
    source.repeat(after_snapshot + 9, first_time)
    source.transaction(("u", "item", {"id": 1, "body": "v6"}))
    work_once(settings)
    assert replica.rows("item") == [(1, "v6"), (15, "x")]
    with running_worker(settings) as worker:
        worker.until(lambda progress: progress.active)
        source.repeat(after_snapshot, first_time)
        source.transaction(("u", "item", {"id": 1, "body": "v7"}))
        worker.until(lambda progress: (1, "v7") in replica.rows("item"))
    assert replica.rows("item") == [(1, "v7"), (15, "x")]
    assert replica_status(settings, NAME).records == 0


def test_messages_without_schemas_are_read_by_the_tables_that_exist(
    kafka: Broker, new_database: NewDatabase, source_name: str
) -> None:
    source = DebeziumSource(kafka.bootstrap_servers, source_name, schemas=False)
    source.table("item", text("body"))
    source.snapshot("item", {"id": 1, "body": "short", "price": "BOI=", "at": 1795255872123456, "day": 20778})
    url = new_database("postgresql")
    settings, replica = debezium_settings(kafka, source_name, url), Database(url)
    with pytest.raises(DataError, match=r"the replica has no table public\.item, and the messages carry no schema"):
        work_once(settings)
    replica.execute(
        "CREATE TABLE item (id bigint PRIMARY KEY, body varchar(20), price numeric(10,2), at timestamp, day date)"
    )
    source.transaction(("c", "item", {"id": 2, "body": None, "price": None, "at": None, "day": None}))
    work_once(settings)
    shapes = replica.rows("rowcast_table", "shape")
    source.transaction(("d", "item", {"id": 2}))
    work_once(settings)
    # A delete shows only the key, and changes nothing of what is known of the table.
    assert replica.rows("rowcast_table", "shape") == shapes
    [(id, body, price, at, day)] = replica.rows("item")
    assert (id, body, f"{price} {at} {day}") == (1, "short", "12.50 2026-11-21 10:11:12.123456 2026-11-21")


def test_the_formats_are_never_mixed_up(kafka: Broker, new_database: NewDatabase, source_name: str) -> None:
    table = shape("item", column("body", "text"))
    ours = Source(kafka.bootstrap_servers, source_name)
    ours.add(table)
    ours.transaction(("c", "public.item", {"id": 1, "body": "x"}))
    url = new_database("sqlite")
    with pytest.raises(DataError, match="rowcast's relay wrote the message"):
        work_once(debezium_settings(kafka, source_name, url))

    theirs = DebeziumSource(kafka.bootstrap_servers, f"{source_name}-other")
    theirs.table("item", text("body"))
    theirs.transaction(("c", "item", {"id": 1, "body": "x"}))
    with pytest.raises(DataError, match="a connector of Debezium wrote the message"):
        work_once(settings_for(theirs.name, kafka.bootstrap_servers, new_database("sqlite")))
    with pytest.raises(ConfigurationError, match="a connector of Debezium writes the topics"):
        debezium_settings(kafka, source_name, url).require_relay()


def test_events_without_transactions_need_consistency_row(
    kafka: Broker, new_database: NewDatabase, source_name: str
) -> None:
    source = DebeziumSource(kafka.bootstrap_servers, source_name, metadata=False)
    source.table("item", text("body"))
    source.transaction(("c", "item", {"id": 1, "body": "x"}))
    url = new_database("sqlite")
    with pytest.raises(DataError, match=r"provide\.transaction\.metadata"):
        work_once(debezium_settings(kafka, source_name, url))
    work_once(debezium_settings(kafka, source_name, url, consistency="row"))
    assert Database(url).rows("item") == [(1, "x")]
    assert replica_status(debezium_settings(kafka, source_name, url, consistency="row"), NAME).state == "following"


def test_a_transaction_whose_events_are_gone_does_not_stop_the_replica(
    kafka: Broker, new_database: NewDatabase, source_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compaction, or a transformation that filters, removes events that an END counts."""
    monkeypatch.setattr(debezium_reader, "_GRACE_S", 0.2)
    monkeypatch.setattr(debezium_reader, "_LOADING_GRACE_S", 0.2)
    source = DebeziumSource(kafka.bootstrap_servers, source_name)
    source.table("item", text("body"))
    for id in (1, 2):
        source.transaction(("c", "item", {"id": id, "body": "old"}), end=False)
        source.end({"item": 2, "never_seen": 1})
    url = new_database("sqlite")
    settings, replica = debezium_settings(kafka, source_name, url), Database(url)
    work_once(settings)
    assert (replica.state(), replica.rows("item")) == ("consistent", [(1, "old"), (2, "old")])
    with running_worker(settings) as worker:
        worker.until(lambda progress: progress.state == "consistent")
        source.transaction(("u", "item", {"id": 1, "body": "new"}), end=False)
        source.end({"item": 3})
        source.transaction(("u", "item", {"id": 2, "body": "later"}))
        worker.until(lambda progress: replica.rows("item") == [(1, "new"), (2, "later")])
        worker.until(lambda progress: progress.state == "consistent")
    assert replica_status(settings, NAME).records == 0


def test_a_replica_is_not_consistent_with_a_part_of_a_transaction(
    kafka: Broker, new_database: NewDatabase, source_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debezium_reader, "_LOADING_GRACE_S", 0.2)
    source = DebeziumSource(kafka.bootstrap_servers, source_name)
    source.table("item", text("body"))
    source.transaction(("c", "item", {"id": 1, "body": "a part"}), end=False)
    url = new_database("sqlite")
    settings, replica = debezium_settings(kafka, source_name, url), Database(url)
    work_once(settings)
    assert (replica.state(), replica.rows("item")) == ("loading", [(1, "a part")])
    # The next worker reads no event of the transaction.
    work_once(settings)
    assert replica.state() == "loading"
    source.end({"item": 1})
    work_once(settings)
    assert replica.state() == "consistent"
