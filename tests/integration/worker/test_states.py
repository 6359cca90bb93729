"""The state of a replica says whether its rows can be relied on, also when no worker runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from rowcast.consumer import checks, replica_status
from rowcast.consumer.worker import apply_loop
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.findings import Verdict
from rowcast.shared.kafka.topic_names import schema_topic, table_topic, transaction_topic
from servers import Broker
from support.kafka_source import Source, column, shape
from support.worker_runs import NAME, Database, running_worker, settings_for, work_once

ITEM = shape("item", column("n"))
ENGINES = ["postgresql", "mariadb", "mysql", "sqlite"]


def until_state(settings: Settings, state: str) -> None:
    deadline = time.monotonic() + 30
    while (status := replica_status(settings, NAME)).state != state:
        assert time.monotonic() < deadline, status


def test_a_replica_waits_until_something_has_been_published(
    new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    settings = settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"))
    source = Source(kafka.bootstrap_servers, source_name)
    assert replica_status(settings, NAME).state is None
    with running_worker(settings) as worker:
        until_state(settings, "waiting")
        source.add(ITEM)
        worker.until(lambda progress: progress.active)
        until_state(settings, "waiting")
        assert "waiting: nothing has been applied yet" in [f.message for f in checks.replicas(settings)]
        source.transaction(("c", "item", {"id": 1, "n": 1}))
        worker.until(lambda progress: progress.state == "consistent")
        until_state(settings, "consistent")


def test_a_worker_without_anything_published_does_not_report_a_consistent_replica(
    new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    settings = settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"))
    Source(kafka.bootstrap_servers, source_name).add(ITEM)
    assert work_once(settings).state == "waiting"
    assert replica_status(settings, NAME).state == "waiting"


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ENGINES)
def test_the_reason_for_a_stop_stays_in_the_replica_until_a_worker_works_again(
    engine: str, new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    url, source = new_database(engine), Source(kafka.bootstrap_servers, source_name)
    settings = settings_for(source_name, kafka.bootstrap_servers, url)
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    work_once(settings)
    replica = Database(url)
    replica.execute("CREATE UNIQUE INDEX mine ON item (n)")
    source.transaction(("c", "item", {"id": 2, "n": 1}))
    since = []
    for _ in range(2):
        with pytest.raises(DataError) as stop:
            work_once(settings)
        status = replica_status(settings, NAME)
        assert (status.state, status.reason, status.workers) == ("stopped", str(stop.value), 0)
        assert status.records > 0
        assert status.behind_ms > 0
        since.append(status.since_ms)
    assert since[0] == since[1] > 0
    findings = list(checks.replicas(settings))
    assert [f.verdict for f in findings if f.message == f"stopped: {stop.value}"] == [Verdict.missing]
    (waiting,) = [f for f in findings if f.message.startswith("no worker runs, and ")]
    assert waiting.verdict is Verdict.missing
    replica.execute("DROP INDEX mine" + (" ON item" if engine in ("mariadb", "mysql") else ""))
    work_once(settings)
    status = replica_status(settings, NAME)
    assert (status.state, status.reason, status.since_ms, status.behind_ms) == ("consistent", None, 0, 0)
    assert "no worker runs, and no record waits" in [f.message for f in checks.replicas(settings)]


def test_a_running_worker_removes_the_reason(
    new_database: Callable[[str], str], kafka: Broker, source_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_loop, "_CLEAR_STOP_S", 0.2)
    url, source = new_database("sqlite"), Source(kafka.bootstrap_servers, source_name)
    settings = settings_for(source_name, kafka.bootstrap_servers, url)
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    work_once(settings)
    Database(url).execute("UPDATE rowcast_replica SET reason = 'a full disk', since_ms = 5")
    assert replica_status(settings, NAME).state == "stopped"
    with running_worker(settings):
        until_state(settings, "consistent")


def test_a_replica_whose_source_has_lost_the_shapes_of_tables_stops(
    kafka: Broker, source_name: str, new_database: Callable[[str], str]
) -> None:
    source, url = Source(kafka.bootstrap_servers, source_name), new_database("sqlite")
    topics = (transaction_topic(source_name), schema_topic(source_name), table_topic(source_name, "public", "item"))
    source.create_topics(dict.fromkeys(topics, 1))
    source.shapes["public.item"] = ITEM
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    settings = settings_for(source_name, kafka.bootstrap_servers, url)
    with pytest.raises(DataError, match=r"has events of table public\.item: the schema topic has no shape of table"):
        work_once(settings)
    assert replica_status(settings, NAME).state == "stopped"
    # Another replica does not need the table.
    work_once(settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"), tables=["public.other"]))
    source.add(ITEM)
    work_once(settings)
    assert Database(url).rows("item") == [(1, 1)]


@pytest.mark.parametrize("engine", ["postgresql", "mariadb", "sqlite"])
def test_a_check_looks_at_the_tables_themselves(
    engine: str, new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    url, source = new_database(engine), Source(kafka.bootstrap_servers, source_name)
    settings = settings_for(source_name, kafka.bootstrap_servers, url)
    source.add(ITEM, shape("other", column("n")))
    source.transaction(("c", "item", {"id": 1, "n": 1}), ("c", "other", {"id": 1, "n": 1}))
    work_once(settings)
    replica = Database(url)

    def faults() -> list[str]:
        return [f.message for f in checks.replicas(settings) if f.message.startswith("table ")]

    assert faults() == []
    replica.execute("ALTER TABLE item DROP COLUMN n")
    replica.execute("DROP TABLE other")
    assert faults() == [
        "table public.item has no column n any more",
        "table public.other is gone, although a worker has filled it",
    ]
