"""A row that the replica refuses goes to the dead letter topic with everything that follows it, on any engine."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic

from rowcast.consumer.dead_letters.letter_topic import LetterTopic
from rowcast.consumer.dead_letters.replica_queue import replica_queue
from rowcast.consumer.events.dead_letter import LetterEvent, SetAside
from rowcast.consumer.rebuild.options import RebuildOptions
from rowcast.consumer.rebuild.rebuild import rebuild
from rowcast.consumer.running.run_worker import run_worker
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError, RetriableError
from rowcast.shared.kafka.topic_names import table_topic
from servers import Broker
from support.command_line import rowcast
from support.debezium_source import DebeziumSource, text
from support.kafka_admin import create_topics, set_config
from support.kafka_source import Source, column, shape
from support.worker_runs import NAME, Database, settings_for, work_once

ITEM = shape("item", column("n"))
CHILD = shape("child", column("item_id"), refers=[("item_id", "item")])
LONGEST = 998700
OWN_ITEM = "CREATE TABLE item (id bigint PRIMARY KEY, n bigint, CONSTRAINT small CHECK (n < 100))"


def letters_in(bootstrap: str, topic: str) -> list[Any]:
    """Return all messages of a dead letter topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[Any] = []
    while (message := consumer.poll(10)) is not None and message.error() is None:
        found.append(message)
    consumer.close()
    return found


class Shop:
    """A source, and a consistent replica whose own table refuses every n from 100 on.

    ``is_new``: nothing is published yet, and the test creates the replica's own tables.
    """

    def __init__(self, kafka: Broker, source_name: str, url: str, *, is_new: bool = False, **options: Any) -> None:
        self.source = Source(kafka.bootstrap_servers, source_name)
        self.replica = Database(url)
        self.settings = settings_for(source_name, kafka.bootstrap_servers, url, **options)
        self.source.add(ITEM, CHILD)
        if is_new:
            return
        self.replica.execute(OWN_ITEM)
        self.source.transaction(("c", "item", {"id": 1, "n": 1}), ("c", "item", {"id": 2, "n": 2}))
        self.work()
        assert self.replica.state() == "consistent"

    def work(self) -> None:
        work_once(self.settings)

    def position(self) -> int:
        """Return the next offset of the items' topic."""
        topic = table_topic(self.source.name, "public", "item")
        [offset] = [row[1] for row in self.replica.rows("rowcast_position", "topic", "next_offset") if row[0] == topic]
        return int(offset)

    def accept_large_numbers(self) -> None:
        """Drop the constraint. SQLite cannot, so the stored definition of the table is changed."""
        if self.replica.engine.dialect.name == "sqlite":
            larger = "UPDATE sqlite_master SET sql = replace(sql, 'n < 100', 'n < 1000') WHERE name = 'item'"
            self.replica.execute("PRAGMA writable_schema = ON", larger)
        else:
            self.replica.execute("ALTER TABLE item DROP CONSTRAINT small")

    def send_unreadable(self, id_: int) -> None:
        """Publish a transaction with a readable event of this row, and one of the row after it that lacks a column."""
        source, item = self.source, self.source.shapes["public.item"]
        identity = source.put(("c", "item", {"id": id_, "n": 1}), end=False)
        value = source.envelope("c", item, {"id": id_ + 1}, source.lsn + 1, identity, 2, 2)
        source.lsn += 1
        source.send(table_topic(source.name, "public", "item"), value, b'{"id":%d}' % (id_ + 1))
        source.end(identity, {"public.item": 2})

    def letters(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return the event offsets and whether they are causes, by letter, as the replica records them."""
        found: dict[str, list[tuple[Any, ...]]] = {}
        for letter, table, key, is_cause in self.replica.rows(
            "rowcast_dead_letter", "letter", "table_name", "row_key", "is_cause"
        ):
            place = (table.removeprefix("public."), orjson.loads(key)["id"], bool(is_cause))
            found.setdefault(letter, []).append(place)
        return {letter: sorted(places) for letter, places in found.items()}


def test_whole_transactions_wait_and_the_others_are_applied(kafka: Broker, source_name: str, replica_url: str) -> None:
    shop = Shop(kafka, source_name, replica_url, on_bad_row="dlq")
    source = shop.source
    bad = source.put(("u", "item", {"id": 1, "n": 500}), ("u", "item", {"id": 2, "n": 3}))
    follower = source.put(("u", "item", {"id": 2, "n": 4}))
    source.put(("c", "item", {"id": 3, "n": 5}))
    parent = source.put(("c", "item", {"id": 5, "n": 700}))
    child = source.put(("c", "child", {"id": 1, "item_id": 5}), ("c", "item", {"id": 6, "n": 6}))
    shop.send_unreadable(9)
    source.transaction(("c", "item", {"id": 8, "n": 8}))
    shop.work()
    unreadable = str(700 + source.transactions - 1)
    assert shop.letters() == {
        bad: [("item", 1, True), ("item", 2, False)],
        follower: [("item", 2, False)],
        parent: [("item", 5, True)],
        child: [("child", 1, True), ("item", 6, False)],
        unreadable: [("item", 9, False), ("item", 10, True)],
    }
    assert shop.replica.state() == "consistent"
    late = source.transaction(("d", "item", {"id": 5}), ("c", "item", {"id": 4, "n": 4}))
    source.transaction(("u", "item", {"id": 3, "n": 6}))
    shop.work()
    assert shop.letters()[late] == [("item", 4, False), ("item", 5, False)]
    assert shop.replica.rows("item", "id", "n") == [(1, 1), (2, 2), (3, 6), (8, 8)]
    assert shop.replica.rows("child") == []
    _check_messages(shop, bad)


def _check_messages(shop: Shop, bad: str) -> None:
    """Check the first letter's messages: the bytes of the events, and Kafka Connect's headers without values."""
    messages = letters_in(shop.source.bootstrap, f"{shop.source.name}.{NAME}.dlq")
    assert len(messages) == len(shop.replica.rows("rowcast_dead_letter", "letter"))
    [first] = [message for message in messages if dict(message.headers())["__connect.errors.offset"] == b"2"]
    assert first.key() == b'{"id":1}'
    assert orjson.loads(first.value())["after"] == {"id": 1, "n": 500}
    assert orjson.loads(first.value())["transaction"]["id"] == bad
    headers = dict(first.headers())
    original = table_topic(shop.source.name, "public", "item")
    assert headers["__connect.errors.topic"] == original.encode()
    assert headers["__connect.errors.partition"] == b"0"
    assert headers["__connect.errors.stage"] == b"TASK_PUT"
    assert b"small" in headers["__connect.errors.exception.message"]
    assert b"500" not in headers["__connect.errors.exception.message"]
    assert b"." in headers["__connect.errors.exception.class.name"]


@pytest.mark.parametrize("replica_url", ["sqlite", "mariadb"], indirect=True)
def test_only_the_events_of_a_bad_row_wait(kafka: Broker, source_name: str, replica_url: str) -> None:
    shop = Shop(kafka, source_name, replica_url, on_bad_row="dlq", dlq_unit="event")
    source = shop.source
    source.put(("u", "item", {"id": 1, "n": 500}), ("u", "item", {"id": 2, "n": 3}), ("c", "item", {"id": 3, "n": 1}))
    # The primary key of row 3 changes to 4, whose row is refused.
    source.put(("d", "item", {"id": 3}), ("c", "item", {"id": 4, "n": 900}), ("u", "item", {"id": 2, "n": 4}))
    source.put(
        ("u", "item", {"id": 1, "n": 7}), ("u", "item", {"id": 2, "n": 5}), ("c", "child", {"id": 1, "item_id": 4})
    )
    shop.send_unreadable(9)
    source.flush()
    shop.work()
    waiting = sorted(place for places in shop.letters().values() for place in places)
    assert waiting == [
        ("child", 1, True), ("item", 1, False), ("item", 1, True), ("item", 3, False), ("item", 4, True),
        ("item", 10, True),
    ]  # fmt: skip
    assert shop.replica.rows("item", "id", "n") == [(1, 1), (2, 5), (3, 1), (9, 1)]


@pytest.mark.parametrize("replica_url", ["sqlite"], indirect=True)
def test_a_fault_of_the_table_stops_the_worker(kafka: Broker, source_name: str, replica_url: str) -> None:
    shop = Shop(kafka, source_name, replica_url, on_bad_row="dlq")
    shop.replica.execute("CREATE TRIGGER t BEFORE INSERT ON item BEGIN INSERT INTO gone VALUES (1); END")
    shop.source.transaction(("c", "item", {"id": 3, "n": 3}))
    with pytest.raises(DataError, match="no such table"):
        shop.work()
    assert shop.letters() == {}
    run_worker(shop.settings, NAME, once=True, skip=[f"{700 + shop.source.transactions}"])


@pytest.mark.shared_dialect
def test_retry_applies_in_order_and_drop_releases_the_rows(kafka: Broker, source_name: str, replica_url: str) -> None:
    shop = Shop(kafka, source_name, replica_url, on_bad_row="dlq")
    source = shop.source
    bad = source.transaction(("u", "item", {"id": 1, "n": 500}), ("u", "item", {"id": 2, "n": 3}))
    # A run that has the next transaction too would only write the last event of row 1.
    shop.work()
    corrected = source.put(("u", "item", {"id": 1, "n": 50}))
    parent = source.put(("c", "item", {"id": 5, "n": 700}))
    child = source.put(("c", "child", {"id": 1, "item_id": 5}))
    shop.send_unreadable(9)
    source.flush()
    unreadable = str(700 + source.transactions)
    shop.work()
    with replica_queue(shop.settings, NAME) as queue:
        assert queue.print_list([], as_json=True) == 1
        assert queue.retry([corrected]) == 1
        assert set(shop.letters()) == {bad, corrected, parent, child, unreadable}
        # Only the last event of row 1 is written, so the first two letters together are right.
        assert queue.retry([]) == 1
        assert set(shop.letters()) == {parent, child, unreadable}
        assert shop.replica.rows("item", "id", "n") == [(1, 50), (2, 3)]
        source.transaction(("u", "item", {"id": 1, "n": 51}))
        shop.work()
        queue.drop([unreadable])
        shop.accept_large_numbers()
        assert queue.retry([]) == 0
        assert queue.print_list([], as_json=True) == 0
    assert shop.replica.rows("item", "id", "n") == [(1, 51), (2, 3), (5, 700)]
    assert shop.replica.rows("child", "id", "item_id") == [(1, 5)]
    # The dropped rows are released.
    source.transaction(("u", "item", {"id": 10, "n": 2}), ("u", "item", {"id": 5, "n": 5}))
    shop.work()
    assert set(shop.replica.rows("item", "id", "n")) == {(1, 51), (2, 3), (5, 5), (10, 2)}
    assert shop.letters() == {}


@pytest.mark.parametrize("replica_url", ["sqlite"], indirect=True)
def test_nothing_moves_before_kafka_has_a_letter(
    kafka: Broker, source_name: str, replica_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shop = Shop(kafka, source_name, replica_url, on_bad_row="dlq")
    before = shop.position()
    topic = f"{source_name}.{NAME}.dlq"
    create_topics(kafka.bootstrap_servers, NewTopic(topic, 1, 1, config={"cleanup.policy": "compact"}))
    shop.source.transaction(("c", "item", {"id": 3, "n": 500}), ("c", "item", {"id": 4, "n": 1}))
    with pytest.raises(ConfigurationError, match="is compacted"):
        shop.work()
    assert shop.position() == before
    assert shop.letters() == {}
    set_config(kafka.bootstrap_servers, topic, "cleanup.policy", "delete")
    original, failures = LetterTopic.write, [RetriableError("no answer")] * 2

    def write(self: LetterTopic, events: Sequence[SetAside]) -> list[LetterEvent]:
        assert shop.position() == before
        if failures:
            raise failures.pop()
        return original(self, events)

    monkeypatch.setattr(LetterTopic, "write", write)
    shop.work()
    assert list(shop.letters().values()) == [[("item", 3, True), ("item", 4, False)]]
    assert shop.position() != before
    monkeypatch.undo()
    _check_commands(shop, tmp_path)
    # A rebuild makes a table without the constraint, as a worker does. It would not touch a table of the user's.
    shop.replica.execute("UPDATE rowcast_table SET created = 1")
    rebuild(shop.settings, NAME, RebuildOptions(is_verified=False, processes=1), stop=threading.Event())
    assert shop.letters() == {}
    assert shop.replica.rows("item", "id", "n") == [(1, 1), (2, 2), (3, 500), (4, 1)]


def _check_commands(shop: Shop, folder: Path) -> None:
    """Check what `rowcast dlq` and `rowcast status` show of a letter."""
    text = f'source = "{shop.source.name}"\n[kafka]\n"bootstrap.servers" = "{shop.source.bootstrap}"\n'
    url = shop.replica.engine.url.render_as_string(hide_password=False)
    (folder / "rowcast.toml").write_text(f'{text}[replicas.{NAME}]\nurl = "{url}"\n')
    shown = rowcast("dlq", "show", NAME, "--json", cwd=folder)
    [letter] = orjson.loads(shown.stdout)
    values = [orjson.loads(event["message"]["value"])["after"] for event in letter["events"]]
    assert values == [{"id": 3, "n": 500}, {"id": 4, "n": 1}]
    status = rowcast("status", cwd=folder)
    assert status.returncode == 1
    assert "consistent but for 1 transaction up to lsn" in status.stdout
    assert "lacks 1 transaction (2 events) in the dead letter topic" in status.stdout


@pytest.mark.parametrize(
    ("replica_url", "has_own_child"),
    [("postgresql", True), ("sqlite", False)],
    indirect=["replica_url"],
)
def test_a_replica_loads_around_a_bad_row(
    kafka: Broker, source_name: str, replica_url: str, has_own_child: bool
) -> None:
    replica = Database(replica_url)
    replica.execute(OWN_ITEM)
    if has_own_child:
        replica.execute("CREATE TABLE child (id bigint PRIMARY KEY, item_id bigint REFERENCES item (id))")
    shop = Shop(kafka, source_name, replica_url, is_new=True, on_bad_row="dlq")
    source = shop.source
    source.put(
        ("c", "item", {"id": 1, "n": 500}), ("c", "item", {"id": 2, "n": 2}), ("c", "child", {"id": 1, "item_id": 2})
    )
    source.put(("c", "child", {"id": 2, "item_id": 1}))
    source.put(("u", "item", {"id": 1, "n": 600}), ("u", "item", {"id": 2, "n": 3}))
    source.flush()
    shop.work()
    waiting = {place[:2] for places in shop.letters().values() for place in places}
    assert replica.rows("item", "id", "n") == [(2, 3)]
    if has_own_child:
        # The foreign key has held the child back, and nothing else can resolve the conflict.
        assert waiting == {("item", 1), ("child", 2)}
        assert replica.state() == "consistent"
    else:
        # The foreign key cannot be created before the letter is settled.
        assert waiting == {("item", 1)}
        assert replica.state() == "loading"
    shop.accept_large_numbers()
    with replica_queue(shop.settings, NAME) as queue:
        assert queue.retry([]) == 0
    shop.work()
    assert replica.state() == "consistent"
    assert replica.rows("item", "id", "n") == [(1, 600), (2, 3)]
    assert replica.rows("child", "id", "item_id") == [(1, 2), (2, 1)]


@pytest.mark.parametrize("replica_url", ["sqlite"], indirect=True)
def test_a_row_of_a_debezium_connector_is_refused_and_retried(
    kafka: Broker, source_name: str, replica_url: str
) -> None:
    replica, source = Database(replica_url), DebeziumSource(kafka.bootstrap_servers, source_name)
    replica.execute("CREATE TABLE item (id bigint PRIMARY KEY, body text CHECK (length(body) < 9))")
    source.table("item", text("body", optional=False))
    source.snapshot("item", {"id": 1, "body": "old"})
    options = ReplicaSettings(url=replica_url, on_bad_row="dlq")
    settings = Settings(
        source=source_name,
        format="debezium",
        kafka={"bootstrap.servers": kafka.bootstrap_servers},
        replicas={NAME: options},
    )
    work_once(settings)
    # With the headers of a letter, the message is longer than the defaults of clients and topics allow.
    source.transaction(("u", "item", {"id": 1, "body": "x" * LONGEST}), ("c", "item", {"id": 2, "body": "new"}))
    work_once(settings)
    # An unchanged large value is left out, so the letter is needed.
    source.transaction(("u", "item", {"id": 2, "body": "__debezium_unavailable_value"}), ("d", "item", {"id": 1}))
    source.transaction(("c", "item", {"id": 3, "body": "free"}))
    work_once(settings)
    assert replica.rows("item", "id", "body") == [(1, "old"), (3, "free")]
    assert len(replica.rows("rowcast_dead_letter", "letter")) == 4
    with replica_queue(settings, NAME) as queue:
        assert queue.retry([]) == 0
    assert replica.rows("item", "id", "body") == [(2, "new"), (3, "free")]
