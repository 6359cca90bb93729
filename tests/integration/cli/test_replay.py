"""``rowcast replay`` writes whole transactions of the topics again, in the order of their commits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic
from pydantic import SecretStr

from rowcast.consumer.replay.replay import replay
from rowcast.consumer.replay.span import WantedTransactions
from rowcast.consumer.replay.topic_output import to_topics
from rowcast.consumer.topics.selection import Selection
from rowcast.producer.relay import Relay
from rowcast.shared.config.settings import load
from rowcast.shared.kafka.messages import TransactionEvent
from rowcast.shared.kafka.topic_names import marker_topic, table_topic, transaction_topic
from servers import Broker
from support.command_line import environment, rowcast, started
from support.kafka_admin import create_topics
from support.kafka_source import Source, column, shape
from support.relay.primary import ORDERS, line, primary_at
from support.relay.settings import settings_of
from support.worker_runs import Database, settings_for, work_once

ITEM = shape("item", column("note", "text"))
WORD = shape("word", column("item_id"), refers=[("item_id", "item")])
Events = list[tuple[str, str, int]]


@pytest.fixture
def source(kafka: Broker, source_name: str) -> Source:
    source = Source(kafka.bootstrap_servers, source_name, partitions=3)
    source.add(ITEM, WORD)
    return source


def replayed(place: Path, *arguments: str, code: int = 0) -> Events:
    """Return op, table and key of each event."""
    result = rowcast("replay", *arguments, cwd=place)
    assert result.returncode == code, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return [(event["op"], event["table"], event["key"]["id"]) for event in found]


def pair(number: int) -> Events:
    """Return the events of ``publish``."""
    return [("c", "item", number), ("c", "word", number)]


def publish(source: Source, number: int) -> str:
    """Publish a transaction of an item and a word. Return its id."""
    return source.transaction(
        ("c", "item", {"id": number, "note": "x"}), ("c", "word", {"id": number, "item_id": number})
    )


def test_transactions_come_whole_and_in_the_order_of_commits(place: Path, source: Source) -> None:
    for number in range(100):
        publish(source, number)
    source.transaction(("d", "word", {"id": 5}), ("u", "item", {"id": 5, "note": "y"}))
    expected = [event for number in range(100) for event in pair(number)]
    assert replayed(place) == [*expected, ("d", "word", 5), ("u", "item", 5)]
    assert replayed(place, "--table", "*.word", "--key", "5") == [("c", "word", 5), ("d", "word", 5)]


def test_a_transaction_and_a_range_of_times(place: Path, source: Source) -> None:
    publish(source, 1)
    time.sleep(0.05)
    since = time.time()
    time.sleep(0.05)
    transaction = publish(source, 2)
    publish(source, 3)
    time.sleep(0.05)
    until = time.time()
    time.sleep(0.05)
    publish(source, 4)
    assert replayed(place, "--transaction", transaction) == pair(2)
    times = [
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}" for at in (since, until)
    ]
    assert replayed(place, "--since", times[0], "--until", times[1]) == [*pair(2), *pair(3)]
    assert replayed(place, "--transaction", "no-such", code=1) == []


def test_a_transaction_that_lacks_events_is_refused_or_marked(place: Path, source: Source) -> None:
    publish(source, 1)
    transaction = source.transaction(("c", "item", {"id": 2, "note": "x"}), end=False)
    source.lsn += 1
    counts = {"public.item": 2}
    source._mark(TransactionEvent("END", transaction, int(time.time() * 1000), source.lsn, 2, counts))
    source.flush()
    assert replayed(place, code=1) == pair(1)
    assert "had 2 events of table public.item, and the topic has 1" in rowcast("replay", cwd=place).stderr
    assert replayed(place, "--allow-gaps", code=1) == [*pair(1), ("c", "item", 2)]
    assert replayed(place, "--table", "public.word") == [("c", "word", 1)]


def snapshot_of(source: Source, *keys: int) -> None:
    """Publish a chunk of a snapshot."""
    for key in keys:
        source.lsn += 1
        source.event("r", "public.item", {"id": key, "note": "read"}, source.lsn, None)
    source.transaction(id=f"snapshot-1-{source.lsn}")


def committed(source: Source, topic: str, partitions: int) -> list[tuple[int, bytes | None, bytes | None]]:
    """Return partition, key and value of each committed message."""
    consumer = Consumer(
        {
            "bootstrap.servers": source.bootstrap,
            "group.id": "x",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
            "isolation.level": "read_committed",
        }
    )
    found = []
    for number in range(partitions):
        consumer.assign([TopicPartition(topic, number, 0)])
        while (message := consumer.poll(10)) is not None and message.error() is None:
            found.append((number, message.key(), message.value()))
    consumer.close()
    return found


def test_a_worker_reads_replayed_topics_as_those_of_a_source(place: Path, source: Source) -> None:
    snapshot_of(source, 100, 101)
    for number in range(20):
        publish(source, number)
    source.transaction(("d", "word", {"id": 7}), ("d", "item", {"id": 7}))
    snapshot_of(source, 100, 3)
    source.transaction(("u", "item", {"id": 4, "note": "last"}))
    name = f"{source.name}-again"
    for _ in range(2):
        # The second time, everything is there already.
        result = rowcast("replay", "--to-prefix", name, cwd=place)
        assert (result.returncode, result.stdout) == (0, ""), result.stderr
    for table in ("item", "word"):
        before = committed(source, table_topic(source.name, "public", table), 3)
        assert committed(source, table_topic(name, "public", table), 3) == before
    copies = []
    for one in (source.name, name):
        url = f"sqlite:///{place}/{one}.db"
        assert work_once(settings_for(one, source.bootstrap, url)).state == "consistent"
        copies.append([Database(url).rows(table) for table in ("item", "word")])
    assert copies[0] == copies[1]
    # A worker that was there before goes on by whole transactions.
    publish(source, 30)
    assert rowcast("replay", "--to-prefix", name, cwd=place).returncode == 0
    assert work_once(settings_for(name, source.bootstrap, url)).transactions == 1
    assert (30, 30) in Database(url).rows("word")


def test_the_end_of_a_transaction_counts_only_the_written_events(place: Path, source: Source) -> None:
    for number in range(5):
        publish(source, number)
    name = f"{source.name}-items"
    assert rowcast("replay", "--to-prefix", name, "--table", "*.item", cwd=place).returncode == 0
    url = f"sqlite:///{place}/items.db"
    settings = settings_for(name, source.bootstrap, url)
    assert work_once(settings).state == "consistent"
    assert len(Database(url).rows("item")) == 5
    publish(source, 5)
    assert rowcast("replay", "--to-prefix", name, "--table", "*.item", cwd=place).returncode == 0
    assert work_once(settings).transactions == 1
    assert "word" not in Database(url).tables()


# Kill the process in the middle of a Kafka transaction, after several were committed.
_KILLED = """
import os
from rowcast.consumer.replay import kafka_transactions
from rowcast.shared.cli import main

kafka_transactions._COMMIT_MESSAGES = 400
send, sent = kafka_transactions.KafkaTransactions._send, []

def send_or_die(self, message):
    sent.append(message)
    if len(sent) > 1_500:
        self._producer.flush()
        os.kill(os.getpid(), 9)
    send(self, message)

kafka_transactions.KafkaTransactions._send = send_or_die
main()
"""


def test_a_killed_replay_goes_on_without_a_gap_and_without_repetition(place: Path, source: Source) -> None:
    for number in range(600):
        source.put(("c", "item", {"id": number, "note": "x"}), ("c", "word", {"id": number, "item_id": number}))
    source.flush()
    name = f"{source.name}-again"
    arguments = ("replay", "--to-prefix", name)
    command = [sys.executable, "-c", _KILLED, *arguments]
    with started(command, place, environment(), stderr=subprocess.DEVNULL) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert 0 < len(committed(source, transaction_topic(name), 1)) < 1_200
    result = rowcast(*arguments, cwd=place)
    assert result.returncode == 0, result.stderr
    for table in ("item", "word"):
        before = committed(source, table_topic(source.name, "public", table), 3)
        assert committed(source, table_topic(name, "public", table), 3) == before
    assert committed(source, transaction_topic(name), 1) == committed(source, transaction_topic(source.name), 1)


def test_topics_of_a_relay_are_not_written_to(place: Path, source: Source) -> None:
    publish(source, 1)
    result = rowcast("replay", "--to-prefix", source.name, cwd=place)
    assert (result.returncode, f"topics of source {source.name} itself" in result.stderr) == (2, True)
    other = f"{source.name}-relay"
    create_topics(source.bootstrap, NewTopic(marker_topic(other), 1, 1))
    result = rowcast("replay", "--to-prefix", other, cwd=place)
    assert (result.returncode, "a relay publishes a source of this name" in result.stderr) == (2, True)
    assert load(place / "rowcast.toml").source == source.name


def test_one_topic_gets_the_events_in_the_order_of_their_commits(place: Path, source: Source) -> None:
    for number in range(300):
        source.put(("c", "item", {"id": number, "note": "x"}), ("c", "word", {"id": number, "item_id": number}))
    source.flush()
    topic = f"{source.name}-log"
    arguments = ("replay", "--to-topic", topic)
    command = [sys.executable, "-c", _KILLED.replace("1_500", "450"), *arguments]
    with started(command, place, environment(), stderr=subprocess.DEVNULL) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert 0 < len(committed(source, topic, 1)) < 600
    for _ in range(2):
        # The second time, everything is there already.
        assert rowcast(*arguments, cwd=place).returncode == 0
    source.transaction(("d", "word", {"id": 5}), ("u", "item", {"id": 5, "note": "y"}))
    assert rowcast(*arguments, cwd=place).returncode == 0
    written = [json.loads(value or b"") for _, _, value in committed(source, topic, 1)]
    assert [one["source"]["lsn"] for one in written] == sorted({one["source"]["lsn"] for one in written})
    assert [(one["op"], one["source"]["table"]) for one in written] == [("c", "item"), ("c", "word")] * 300 + [
        ("d", "word"), ("u", "item"),
    ]  # fmt: skip


def test_a_topic_that_would_lose_events_is_refused(place: Path, source: Source) -> None:
    publish(source, 1)
    compacted, foreign = f"{source.name}-compacted", f"{source.name}-foreign"
    create_topics(
        source.bootstrap, NewTopic(compacted, 1, 1, config={"cleanup.policy": "compact"}), NewTopic(foreign, 1, 1)
    )
    source.send(foreign, b"something", b"else", 0)
    source.flush()
    for topic, reason in (
        (compacted, "is compacted"),
        (foreign, "no events of rowcast, at offset 0"),
        (table_topic(source.name, "public", "item"), "topic of source"),
    ):
        refused = rowcast("replay", "--to-topic", topic, cwd=place)
        assert (refused.returncode, reason in refused.stderr) == (2, True), refused.stderr
    both = rowcast("replay", "--to-topic", foreign, "--to-prefix", "x", cwd=place)
    assert (both.returncode, "exclude each other" in both.stderr) == (2, True)


@pytest.mark.parametrize("format_", ["json", "json-schema"])
def test_messages_of_a_relay_stay_signed_and_keep_their_form(
    kafka: Broker, source_name: str, tmp_path: Path, format_: str
) -> None:
    keys = (SecretStr("k" * 16),)
    with primary_at(tmp_path / "primary.db") as primary:
        own = settings_of(kafka, source_name, primary).model_copy(update={"signature_keys": keys, "format": format_})
        primary.add_shapes(ORDERS)
        for key in (1, 2, 3):
            primary.add(f"t{key}", line(ORDERS, "c", key, "x"))
        Relay(own, primary.engine).run_once()
    name = f"{source_name}-again"
    output, stop = to_topics(own, name), threading.Event()
    written = replay(own, Selection(), WantedTransactions(), output, allow_gaps=False, stop=stop)
    assert (written.transactions, written.events) == (3, 3)
    url = f"sqlite:///{tmp_path}/copy.db"
    settings = settings_for(name, kafka.bootstrap_servers, url).model_copy(update={"signature_keys": keys})
    assert work_once(settings).state == "consistent"
    assert Database(url).rows("orders", "id") == [(1,), (2,), (3,)]
