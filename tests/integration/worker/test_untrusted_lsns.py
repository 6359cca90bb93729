"""Messages whose lsns or ENDs cannot be true stop a worker, and ``--skip`` leaves out what the error names."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from rowcast.consumer import replica_status
from rowcast.consumer.reading import reader_thread, waiting_watch
from rowcast.consumer.running.run_worker import run_worker
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import TransactionEvent, transaction_value
from rowcast.shared.kafka.topic_names import schema_topic, table_topic, transaction_topic
from servers import Broker
from support.kafka_source import Source, column, shape
from support.worker_runs import NAME, Database, running_worker, settings_for, work_once

ITEM = shape("item", column("n"))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_thread, "_BAD_MESSAGE_GRACE_S", 0.1)


@pytest.fixture
def url(new_database: Callable[[str], str]) -> str:
    return new_database("sqlite")


@pytest.fixture
def source(kafka: Broker, source_name: str) -> Source:
    """Return a source with a table of one row."""
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(ITEM)
    put(source, 0)
    return source


@pytest.fixture
def settings(kafka: Broker, source: Source, url: str) -> Settings:
    """Return the settings of a consistent replica."""
    settings = settings_for(source.name, kafka.bootstrap_servers, url)
    work_once(settings)
    return settings


@pytest.fixture
def replica(url: str) -> Database:
    return Database(url)


def put(source: Source, *ids: int, **options: Any) -> str:
    return source.transaction(*(("c", "item", {"id": id, "n": 0}) for id in ids), **options)


def end(source: Source, id: str, count: int) -> None:
    """Send the END of a transaction with this number of events."""
    source.lsn += 1
    record = TransactionEvent("END", id, 0, source.lsn, count, {"public.item": count})
    source.send(transaction_topic(source.name), transaction_value(record), b"{}", 0)
    source.flush()


def ids(replica: Database) -> list[int]:
    return sorted(row[0] for row in replica.rows("item", "id"))


def stop_and_skip(settings: Settings, message: str) -> str:
    """Let a worker stop twice with this message, and then leave out what the message names. Return the target."""
    for _ in range(2):
        with pytest.raises(DataError, match=message) as stopped:
            work_once(settings)
    status = replica_status(settings, NAME)
    assert (status.state, status.reason) == ("stopped", str(stopped.value))
    named = re.search(r"To leave it out: rowcast worker copy --skip (\S+)$", str(stopped.value))
    assert named, stopped.value
    run_worker(settings, NAME, once=True, skip=[named[1]])
    assert replica_status(settings, NAME).state == "consistent"
    return named[1]


def test_a_transaction_without_end_that_others_pass(
    source: Source, settings: Settings, replica: Database, caplog: pytest.LogCaptureFixture
) -> None:
    put(source, 1)
    lost = put(source, 2, 3, end=False)
    put(source, 4)
    message = rf"transaction {lost} has no END.*first event: table public\.item.*offset 2"
    assert stop_and_skip(settings, message) == lost
    assert ids(replica) == [0, 1, 4]
    assert f"transaction {lost} is left out, because --skip names it" in caplog.text
    # The position is after the events, and nothing is left out without the option.
    put(source, 5)
    assert work_once(settings).events == 1
    assert ids(replica) == [0, 1, 4, 5]


def test_everything_before_the_contradiction_is_applied(source: Source, settings: Settings, replica: Database) -> None:
    for id in range(1, 20):
        put(source, id)
    put(source, 20, end=False)
    put(source, 21)
    with pytest.raises(DataError, match="has no END"):
        work_once(settings)
    assert ids(replica) == list(range(20))


def test_an_event_with_a_huge_lsn(source: Source, settings: Settings, replica: Database) -> None:
    """The events after it would look like repetitions."""
    topic = table_topic(source.name, "public", "item")
    source.event("c", "public.item", {"id": 50, "n": 0}, 2**62, None)
    source.flush()
    put(source, 1, 2)
    assert stop_and_skip(settings, r"offset 1: the lsn 4611686018427387904 is far above") == f"{topic}:0:1"
    assert ids(replica) == [0, 1, 2]


def test_an_end_with_a_huge_lsn(source: Source, settings: Settings, replica: Database) -> None:
    foreign = TransactionEvent("END", "foreign", 0, 2**62, 0, {})
    source.send(transaction_topic(source.name), transaction_value(foreign), b"{}", 0)
    put(source, 1)
    assert stop_and_skip(settings, "the lsn 4611686018427387904 is far above").endswith(".transaction:0:2")
    assert ids(replica) == [0, 1]


@pytest.mark.parametrize("first_lsn", [0, 1])
def test_a_relay_that_counts_from_the_beginning_again(
    source: Source, settings: Settings, replica: Database, first_lsn: int
) -> None:
    """Its messages would look like repetitions, and the rows would be missing for ever."""
    source.lsn = first_lsn
    put(source, 1)
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"transaction, partition 0, offset 2: the BEGIN of transaction 702 .*goes back"
        ):
            work_once(settings)


def test_an_event_that_goes_back(source: Source, settings: Settings, replica: Database) -> None:
    put(source, 1)
    with running_worker(settings) as worker:
        worker.until(lambda p: p.events == 1)
        applied = source.lsn
        put(source, 2)
        worker.until(lambda p: p.events == 2)
        source.event("c", "public.item", {"id": 99, "n": 0}, applied + 2, None)
        source.flush()
        with pytest.raises(AssertionError, match=r"the lsn \d+ goes back: transactions up to lsn"):
            worker.until(lambda p: False)
        worker.error = None
    assert ids(replica) == [0, 1, 2]


def test_a_worker_started_between_two_sendings_knows_the_repetition(
    source: Source, settings: Settings, replica: Database
) -> None:
    """A relay sends the same messages again after a crash."""
    before = source.lsn
    put(source, 1)
    work_once(settings)
    source.lsn, source.transactions = before, source.transactions - 1
    put(source, 1)
    put(source, 2)
    assert work_once(settings).events == 1
    assert ids(replica) == [0, 1, 2]


def test_an_end_that_counts_too_few_events(source: Source, settings: Settings, replica: Database) -> None:
    wrong = put(source, 1, 2, end=False)
    end(source, wrong, 1)
    put(source, 3)
    assert stop_and_skip(settings, "2 events were read, but its END .* counts 1") == wrong
    assert ids(replica) == [0, 3]


def test_an_invalid_event_of_a_transaction(source: Source, settings: Settings, replica: Database) -> None:
    """Its transaction is applied without it, and the replica stays consistent."""
    topic = table_topic(source.name, "public", "item")
    put(source, 1, end=False, id="x")
    row = {"id": 2, "n": 0}
    source.lsn += 1
    source.send(topic, source.envelope("c", ITEM, row, source.lsn, "x", 2, 2), b'{"id":77}')
    end(source, "x", 2)
    put(source, 3)
    assert stop_and_skip(settings, "offset 2: the row of public.item has another key") == f"{topic}:0:2"
    assert ids(replica) == [0, 1, 3]


@pytest.mark.parametrize("kind", ["schema", "transaction"])
def test_an_invalid_record_beside_the_tables(source: Source, settings: Settings, replica: Database, kind: str) -> None:
    topic = schema_topic(source.name) if kind == "schema" else transaction_topic(source.name)
    source.send(topic, b"{}", b"{}", 0)
    put(source, 1)
    assert stop_and_skip(settings, f"topic {topic}, partition 0, offset").startswith(f"{topic}:0:")
    assert ids(replica) == [0, 1]


def test_a_transaction_that_the_replica_refuses(source: Source, settings: Settings, replica: Database) -> None:
    replica.execute("CREATE UNIQUE INDEX foreign_to_the_primary ON item (n)")
    refused = put(source, 1)
    source.transaction(("c", "item", {"id": 2, "n": 5}))
    assert stop_and_skip(settings, f"transaction {refused} .*a constraint of the replica refuses") == refused
    assert replica.rows("item") == [(0, 0), (2, 5)]


def test_a_transaction_that_waits_for_its_end_is_reported(
    source: Source, settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(waiting_watch, "PATIENCE_S", 0.2)
    monkeypatch.setattr(waiting_watch, "_CHECK_INTERVAL_S", 0.05)
    waiting = put(source, 1, end=False)
    with running_worker(settings) as worker:
        worker.until(lambda p: f"transaction {waiting}, which begins with table public.item" in caplog.text)
        end(source, waiting, 1)
        worker.until(lambda p: p.events == 1)
    assert f"rowcast worker copy --skip {waiting}" in caplog.text
    assert caplog.text.count("has waited for its END") == 1


def test_an_event_that_waits_for_an_end_is_reported_at_once_by_a_run_that_ends(
    source: Source, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    source.event("r", "public.item", {"id": 7, "n": 0}, source.lsn + 10, None)
    source.flush()
    work_once(settings)
    assert re.search(r"the event of table public\.item .* has waited for a BEGIN or END of a greater lsn", caplog.text)
    assert f"--skip {table_topic(source.name, 'public', 'item')}:0:1" in caplog.text
