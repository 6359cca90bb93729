"""Publish from the outbox to the topics of a real Kafka, on each engine."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from rowcast.producer.relay import Relay, RelayThread, backlog, running
from rowcast.producer.relay.kafka.transactional_producer import TransactionalProducer
from rowcast.producer.relay.leader.work_loop import Leader
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError, UnreachableError
from rowcast.shared.kafka import clients
from servers import Broker
from servers.wait_until_settled import wait_until_settled
from support.relay.counter_app import Counters
from support.relay.primary import ITEMS, ORDERS, Primary, line, shape
from support.relay.settings import NewSettings
from support.relay.threads import running_thread, wait_until
from support.relay.topic_reader import (
    assert_as_documented,
    assert_whole_transactions,
    last_images,
    notes_by_key,
    read_topics,
)

pytestmark = pytest.mark.shared_dialect


def test_everything_is_published_deleted_and_counted(
    primary: Primary, new_settings: NewSettings, kafka: Broker
) -> None:
    settings = new_settings(primary)
    primary.add_shapes(ORDERS, ITEMS)
    primary.add("a", line(ORDERS, "c", 1, "é"), line(ITEMS, "c", 1), line(ORDERS, "d", 2))
    primary.add("b", line(ORDERS, "u", 1, '"'))
    assert Relay(settings, primary.engine).run_once() == 4
    published = read_topics(kafka.bootstrap_servers, settings.source, "read_committed")
    assert_whole_transactions(published.stream)
    assert last_images(published) == {
        (f"{settings.source}.public.orders", b'{"id":1}'): b'{"id":1,"note":"\\""}',
        (f"{settings.source}.public.items", b'{"id":1}'): b'{"id":1,"note":""}',
    }
    assert primary.ids() == []
    assert primary.claims() == 0
    assert backlog(primary.engine, settings.source).lsn == 8


def test_concurrent_transactions_arrive_whole_and_in_order(
    primary: Primary, new_settings: NewSettings, kafka: Broker
) -> None:
    """Ids interleave and become visible out of order. Claims are small, so some transactions span several claims."""
    settings = new_settings(primary, claim_rows=3, topics={"partitions": 3})
    counters = Counters(primary)
    with running_thread(Relay(settings, primary.engine)), counters.at_work(seed=1):
        rng = random.Random(2)
        for _ in range(25):
            counters.raise_some(rng)
    Relay(settings, primary.engine).run_once()
    for isolation in ("read_committed", "read_uncommitted"):
        stream = read_topics(kafka.bootstrap_servers, settings.source, isolation).stream
        assert_whole_transactions(stream)
        assert notes_by_key(stream) == counters.expected()
    assert primary.ids() == []


@pytest.mark.parametrize(
    "primary_url", ["postgresql", "mariadb"], indirect=True
)  # SQLite allows a single writer at a time.
def test_an_uncommitted_transaction_does_not_delay_the_relay(primary: Primary, new_settings: NewSettings) -> None:
    """The relay waits neither for uncommitted rows nor for gaps in the ids, in reads and in deletes."""
    settings = new_settings(primary)
    primary.add_shapes(ORDERS)
    for n in range(50):
        primary.add(str(n), line(ORDERS, "c", n))
    relay = Relay(settings, primary.engine)
    with primary.engine.connect() as connection:
        row = {"tx": "open", "ts_ms": 1, "complete": True, "changes": line(ORDERS, "c", 99)}
        connection.execute(sa.insert(primary.tables.outbox), row)
        assert relay.run_once() == 50
        connection.commit()
    assert Relay(settings, primary.engine).run_once() == 1
    assert primary.ids() == []


def test_messages_are_what_their_schemas_say(lite: Primary, new_settings: NewSettings, kafka: Broker) -> None:
    settings = new_settings(lite)
    lite.add_shapes(ORDERS, ITEMS)
    lite.add("a", line(ORDERS, "c", 1), line(ITEMS, "u", 1), line(ORDERS, "d", 1))
    Relay(settings, lite.engine).run_once()
    assert_as_documented(read_topics(kafka.bootstrap_servers, settings.source, "read_committed"))


def test_topics_are_made_as_configured(lite: Primary, new_settings: NewSettings, kafka: Broker) -> None:
    topics = {"partitions": 3, "min_compaction_lag_ms": 1234, "transaction_retention_ms": 5678}
    settings = new_settings(lite, topics=topics)
    lite.add_shapes(ORDERS)
    Relay(settings, lite.engine).run_once()
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    table, transaction, schema = (f"{settings.source}.{name}" for name in ("public.orders", "transaction", "schema"))
    found = admin.list_topics(timeout=10).topics
    assert [len(found[name].partitions) for name in (table, transaction, schema)] == [3, 1, 1]
    for name, expected in {
        table: {"cleanup.policy": "compact", "min.compaction.lag.ms": "1234"},
        schema: {"cleanup.policy": "compact", "min.compaction.lag.ms": "1234"},
        transaction: {"cleanup.policy": "delete", "retention.ms": "5678"},
    }.items():
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        config = admin.describe_configs([resource])[resource].result(timeout=10)
        assert {key: config[key].value for key in expected} == expected


def test_a_tables_topic_is_called_and_made_as_configured(
    lite: Primary, new_settings: NewSettings, kafka: Broker
) -> None:
    own = {"partitions": 2, "cleanup_policy": "compact,delete", "retention_ms": 60_000}
    template = "cdc.{table}-of-{source}.{schema}"
    settings = new_settings(lite, topics={"template": template, "tables": {"public.orders": own}})
    lite.add_shapes(ORDERS, ITEMS)
    lite.add("a", line(ORDERS, "c", 1), line(ITEMS, "c", 1))
    Relay(settings, lite.engine).run_once()
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    orders, items = (f"cdc.{name}-of-{settings.source}.public" for name in ("orders", "items"))
    found = admin.list_topics(timeout=10).topics
    assert [len(found[name].partitions) for name in (orders, items)] == [2, 1]
    resource = ConfigResource(ConfigResource.Type.TOPIC, orders)
    config = admin.describe_configs([resource])[resource].result(timeout=10)
    assert (set(config["cleanup.policy"].value.split(",")), config["retention.ms"].value) == (
        {"compact", "delete"}, "60000",
    )  # fmt: skip


def test_keys_go_where_javas_partitioner_sends_them(lite: Primary, new_settings: NewSettings, kafka: Broker) -> None:
    """Kafka's Java clients choose the partition with murmur2. Other producers must choose equal partitions."""
    settings = new_settings(lite, topics={"partitions": 7})
    lite.add_shapes(ORDERS)
    lite.add("a", *(line(ORDERS, "c", n) for n in range(40)))
    Relay(settings, lite.engine).run_once()
    messages = read_topics(kafka.bootstrap_servers, settings.source, "read_committed").messages
    found = {m.key: m.partition for m in messages if m.topic.endswith(".orders")}
    assert len(set(found.values())) == 7
    assert found == {key: (_murmur2(key) & 0x7FFFFFFF) % 7 for key in found}


def test_shapes_come_before_events_and_without_any(lite: Primary, new_settings: NewSettings, kafka: Broker) -> None:
    settings = new_settings(lite)
    lite.add_shapes(ORDERS, ITEMS)
    Relay(settings, lite.engine).run_once()
    published = read_topics(kafka.bootstrap_servers, settings.source, "read_committed")
    assert {orjson.loads(m.key)["table"] for m in published.shapes} == {"orders", "items"}
    assert published.stream == []

    changed = shape("orders", "note", "colour")
    relay = Relay(settings, lite.engine)
    with running_thread(relay):
        wait_until(lambda: relay.progress.state == "leading")
        lite.add_shapes(changed, created_ms=2)
        lite.add("a", line(changed, "c", 1))
        wait_until(lambda: not lite.ids())
    published = read_topics(kafka.bootstrap_servers, settings.source, "read_committed")
    (event,) = (e for e in published.stream if hasattr(e, "op"))
    last = orjson.loads(published.shapes[-1].value or b"")
    assert (last["version"], last["lsn"] <= event.lsn) == (changed.version, True)


def test_nothing_is_published_past_a_damaged_row(lite: Primary, new_settings: NewSettings, kafka: Broker) -> None:
    changes, reason = line(ORDERS, "c", 3).replace('"note"', "note"), "a row image is not JSON"
    settings = new_settings(lite)
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    lite.add("b", line(ORDERS, "c", 2), complete=None)
    damaged = lite.add("b", changes)
    lite.add("c", line(ORDERS, "c", 4))
    for _ in range(2):
        with pytest.raises(DataError, match=rf"row {damaged} of rowcast_outbox \(transaction b\): {reason}"):
            Relay(settings, lite.engine).run_once()
    stream = read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream
    assert_whole_transactions(stream)
    assert notes(stream) == [1]
    assert lite.ids() == [damaged - 1, damaged, damaged + 1]

    with lite.engine.begin() as connection:
        connection.execute(sa.update(lite.tables.outbox).where(lite.tables.outbox.c.id == damaged).values(
            changes=line(ORDERS, "c", 3)
        ))  # fmt: skip
    assert Relay(settings, lite.engine).run_once() == 3
    stream = read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream
    assert_whole_transactions(stream)
    assert notes(stream) == [1, 2, 3, 4]


def test_a_message_too_large_is_named_and_what_came_before_it_is_committed(
    lite: Primary, new_settings: NewSettings, kafka: Broker
) -> None:
    settings = new_settings(lite, kafka_transaction_ms=0, claim_rows=1)
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    lite.add("b", line(ORDERS, "c", 2, "x" * 2_000_000))
    for _ in range(2):
        with pytest.raises(DataError, match=r"a message of 2,000,\d+ bytes for the topic .*orders is too large"):
            Relay(settings, lite.engine).run_once()
    assert notes(read_topics(kafka.bootstrap_servers, settings.source, "read_committed").stream) == [1]
    assert len(lite.ids()) == 1


def test_an_idle_relay_sends_heartbeats(lite: Primary, new_settings: NewSettings, kafka: Broker) -> None:
    # Only the heartbeat itself wakes the relay.
    settings = new_settings(lite, heartbeat_ms=100, poll_max_ms=600_000, lease_ms=600_000)
    topic = f"__debezium-heartbeat.{settings.source}"
    lite.add_shapes(ORDERS)
    with running_thread(Relay(settings, lite.engine)) as relay:
        wait_until(lambda: relay.relay.progress.state == "leading")
        consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": topic})
        consumer.assign([TopicPartition(topic, 0, 0)])
        beats = consumer.consume(4, 60)
        consumer.close()
        lite.add("a", line(ORDERS, "c", 1))
        relay.relay.wake()
        wait_until(lambda: lite.ids() == [])
    assert {beat.key() for beat in beats} == {orjson.dumps({"serverName": settings.source})}
    times = [orjson.loads(beat.value() or b"")["ts_ms"] for beat in beats]
    assert len(times) == 4
    assert all(100 <= later - earlier < 10_000 for earlier, later in pairwise(times))
    published = read_topics(kafka.bootstrap_servers, settings.source, "read_committed")
    assert_whole_transactions(published.stream)
    assert notes(published.stream) == [1]


def test_a_producer_that_ends_leaves_no_transaction_open(kafka: Broker, source_name: str) -> None:
    properties = Settings(source=source_name, kafka={"bootstrap.servers": kafka.bootstrap_servers}).kafka
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_topics([NewTopic(source_name, 1, 1)])[source_name].result()
    lane = TransactionalProducer(properties, source_name)
    lane.fence(30)
    lane.send([(source_name, b"{}", b"{}", 0)], lambda: None)
    wait_until(lambda: _is_flushed(lane), 30)
    lane.close()
    # By themselves, the brokers would abort the transaction only after a minute.
    wait_until_settled(kafka.bootstrap_servers, [(source_name, 0)], patience_s=20)


def _is_flushed(lane: TransactionalProducer) -> bool:
    try:
        lane.flush(1)
    except KafkaException:
        return False
    return True


def test_missing_outbox_tables_are_named_with_the_next_step(new_settings: NewSettings, lite: Primary) -> None:
    lite.tables.claim.drop(lite.engine)
    with pytest.raises(ConfigurationError, match=r"the table rowcast_claim does not exist.*create_outbox"):
        Relay(new_settings(lite), lite.engine).run_once()


def test_an_outbox_of_an_older_version_names_the_missing_columns(new_settings: NewSettings, lite: Primary) -> None:
    with lite.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE rowcast_lease DROP COLUMN carried")
    with pytest.raises(ConfigurationError, match=r"table rowcast_lease has no column carried.*migrate"):
        Relay(new_settings(lite), lite.engine).run_once()


def test_a_relay_of_another_configuration_stops_while_one_leads(lite: Primary, new_settings: NewSettings) -> None:
    lite.add_shapes(ORDERS)
    settings = new_settings(lite)
    with running_thread(Relay(settings, lite.engine)) as leader:
        wait_until(lambda: leader.relay.progress.state == "leading")
        with pytest.raises(
            ConfigurationError, match=r"topics \{source\}.*this relay would publish to .* topics cdc\.\{table\}"
        ):
            Relay(new_settings(lite, topics={"template": "cdc.{table}"}), lite.engine).run_once()
        with pytest.raises(ConfigurationError, match=f"published as source '{settings.source}'.*says 'other'"):
            Relay(settings.model_copy(update={"source": "other"}), lite.engine).run_once()
        lite.add("a", line(ORDERS, "c", 1))
        wait_until(lambda: lite.ids() == [])
        assert leader.ended_by is None


def test_two_tables_for_one_topic_stop_the_relay_and_nothing_is_deleted(
    lite: Primary, new_settings: NewSettings, kafka: Broker
) -> None:
    """Test at the start of a relay, and with a second relay that starts while the first leads."""
    settings = new_settings(lite, topics={"template": "{source}.{table}"})
    other = dataclasses.replace(ORDERS, schema="archive", default_schema=False)
    lite.add_shapes(ORDERS)
    relay = Relay(settings, lite.engine)
    with running_thread(relay) as thread:
        wait_until(lambda: relay.progress.state == "leading")
        lite.add("a", line(ORDERS, "c", 1))
        wait_until(lambda: not lite.ids())
        lite.add_shapes(other)
        left = [lite.add("b", line(ORDERS, "c", 2), line(other, "c", 3)), lite.add("c", line(ORDERS, "c", 4))]
        relay.wake()
        wait_until(lambda: thread.ended_by is not None)
    for error in (thread.ended_by, _error_of(lambda: Relay(settings, lite.engine).run_once())):
        assert isinstance(error, ConfigurationError)
        assert "archive.orders" in str(error)
        assert "would share the topic" in str(error)
    assert lite.ids() == left
    assert notes(read_topics(kafka.bootstrap_servers, settings.source, "read_uncommitted").stream) == [1]
    with lite.engine.begin() as connection:
        connection.execute(sa.delete(lite.tables.shape).where(lite.tables.shape.c.table_name == "archive.orders"))
        connection.execute(sa.delete(lite.tables.outbox).where(lite.tables.outbox.c.tx == "b"))
    assert Relay(settings, lite.engine).run_once() == 1


def _error_of(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # the caller checks the error
        call()
    return caught.value


def test_an_invalid_topic_name_is_an_error_before_anything_is_claimed(lite: Primary, new_settings: NewSettings) -> None:
    settings = new_settings(lite)
    lite.add_shapes(shape("t" * 250))
    lite.add("a", line(shape("t" * 250), "c", 1))
    with pytest.raises(ConfigurationError, match=r"needs a topic name of .* characters, and Kafka allows 249"):
        Relay(settings, lite.engine).run_once()
    assert (len(lite.ids()), lite.claims()) == (1, 0)


def test_an_outbox_of_a_newer_version_is_left_to_a_newer_relay(new_settings: NewSettings, lite: Primary) -> None:
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    with lite.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE rowcast_outbox ADD COLUMN encrypted_with TEXT")
    with pytest.raises(ConfigurationError, match=r"rowcast_outbox has a column encrypted_with .*upgrade rowcast"):
        Relay(new_settings(lite), lite.engine).run_once()
    assert len(lite.ids()) == 1


def test_a_kafka_that_does_not_answer_at_the_start_is_an_error(
    lite: Primary, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Users wait 10 s for a broker.
    monkeypatch.setattr(clients, "reach", partial(clients.reach, timeout=1))
    address = f"127.0.0.1:{closed_port}"
    settings = Settings(source="shop", kafka={"bootstrap.servers": address}, primary={"url": "sqlite://"})
    with pytest.raises(UnreachableError, match=f"cannot reach Kafka at {address}"):
        Relay(settings, lite.engine).run_once()


class Commits:
    """Stand in for a capture that reports commits."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def on_commit(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)


def _has_published(relay: RelayThread, events: int) -> bool:
    return relay.progress.events == events


def test_an_embedded_relay_is_woken_by_commits(lite: Primary, new_settings: NewSettings) -> None:
    commits = Commits()
    lite.add_shapes(ORDERS)
    # Without a wake-up the relay would poll the outbox or renew the lease only after minutes.
    settings = new_settings(lite, poll_min_ms=600_000, poll_max_ms=600_000, lease_ms=600_000)
    with running(settings, commits) as relay:
        wait_until(lambda: relay.progress.state == "leading")
        for n in range(3):
            lite.add(str(n), line(ORDERS, "c", n))
            commits.callbacks[0]()
            wait_until(partial(_has_published, relay, n + 1), seconds=30)
    assert commits.callbacks == []
    assert lite.ids() == []
    assert backlog(lite.engine, settings.source).owner is None


def test_a_relay_that_commits_wake_does_not_poll_faster(
    lite: Primary, new_settings: NewSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each poll takes time from the application. If other processes commit too, the relay polls as often as before."""
    did: list[bool | float] = []
    work = Leader.work

    def recorded(leader: Leader) -> bool | float:
        did.append(work(leader))
        return did[-1]

    monkeypatch.setattr(Leader, "work", recorded)

    held = threading.Event()

    class Waits(threading.Event):
        """Note the pauses of the relay and make them short. While ``held`` is set, only a wake-up ends a pause."""

        def wait(self, timeout: float | None = None) -> bool:
            did.append(timeout or 0.0)
            return super().wait(None if held.is_set() else 0.01)

    lite.add_shapes(ORDERS)
    commits = Commits()
    settings = new_settings(lite, poll_min_ms=1, poll_max_ms=4_000, kafka_transaction_ms=30_000, lease_ms=60_000)
    with running(settings, commits) as relay:
        wait_until(lambda: relay.progress.state == "leading")
        before, relay._relay._woken = relay._relay._woken, Waits()
        before.set()

        def pauses_since(step: int) -> list[float]:
            return [pause for pause in did[step:] if not isinstance(pause, bool)]

        def rests_after(n: int, *, wakes: bool) -> float:
            """Add a row to an idle relay. Return the first pause of the relay after the row was found."""
            wait_until(lambda: max(pauses_since(-1), default=0.0) > 2)
            if wakes:
                # The relay must not find the row by a poll before the commit wakes the relay.
                held.set()
                seen = len(did)
                wait_until(lambda: len(pauses_since(seen)) > 0)
            before = len(did)
            lite.add(str(n), line(ORDERS, "c", n))
            if wakes:
                held.clear()
                commits.callbacks[0]()
            wait_until(lambda: True in did[before:])
            found = did.index(True, before)
            wait_until(lambda: len(pauses_since(found)) > 0)
            return pauses_since(found)[0]

        assert rests_after(0, wakes=False) == 0.001
        assert rests_after(1, wakes=True) > 1
        assert rests_after(2, wakes=False) == 0.001


def test_lingering_messages_are_pushed_until_they_are_sent(
    lite: Primary, new_settings: NewSettings, kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first record for a partition waits until the broker has added the partition to the transaction, perhaps
    longer than a push."""
    monkeypatch.setattr("rowcast.producer.relay.kafka.transactional_producer._PUSH_S", 0.001)
    # The relay does not give up before the broker is done.
    monkeypatch.setattr("rowcast.producer.relay.leader.sender._PUSH_FOR_S", 30)
    pushes: list[bool] = []
    push = TransactionalProducer.push

    def recorded(lane: TransactionalProducer) -> bool:
        pushes.append(push(lane))
        return pushes[-1]

    monkeypatch.setattr(TransactionalProducer, "push", recorded)
    lite.add_shapes(ORDERS)
    commits = Commits()
    own = {"linger.ms": 30_000}
    settings = new_settings(lite, poll_min_ms=60_000, poll_max_ms=60_000, kafka_transaction_ms=30_000)
    settings = settings.model_copy(update={"kafka": {**settings.require_kafka(), **own}})
    with running(settings, commits) as relay:
        wait_until(lambda: relay.progress.state == "leading")
        lite.add("one", line(ORDERS, "c", 1))
        commits.callbacks[0]()
        wait_until(lambda: pushes[-1:] == [True])
        assert pushes[0] is False


def notes(stream: list[Any]) -> list[int]:
    """Return the keys of the events, in order."""
    return [event.key["id"] for event in stream if hasattr(event, "op")]


def _murmur2(data: bytes) -> int:
    """Compute murmur2 with Kafka's seed, after the published description of the algorithm."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if len(data) > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15
