"""Transactions that cannot be published: the relay stops before them, or parks them, and the rest goes on."""

from __future__ import annotations

import logging
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic
from sqlalchemy.dialects import mysql

from integration.relay_faults import CrashAt, CrashError, Faults
from integration.relay_settings import NewSettings, settings_of
from integration.relay_topics import Isolation, read_topics
from rowcast.producer.relay import Relay
from rowcast.producer.snapshots import Snapshots, State
from rowcast.shared.config import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.events import ChangeEvent, TransactionEvent
from servers import Broker
from unit.relay_database import ITEMS, ORDERS, Primary, line, shape

READERS: tuple[Isolation, ...] = ("read_committed", "read_uncommitted")
TOO_LARGE = "x" * 1_100_000


@pytest.fixture
def new_settings(kafka: Broker, source_name: str) -> NewSettings:
    return partial(settings_of, kafka, source_name, on_unpublishable="park")


def keys(settings: Settings, isolation: Isolation) -> list[int]:
    """The keys of the events, in order, after BEGIN and END were found around each transaction's."""
    published = read_topics(str(settings.kafka["bootstrap.servers"]), settings.source, isolation).by_lsn_rule()
    stream = published.stream
    assert all(earlier.lsn < later.lsn for earlier, later in pairwise(stream))
    assert_whole(stream)
    return [event.key["id"] for event in stream if isinstance(event, ChangeEvent)]


def assert_whole(stream: list[ChangeEvent | TransactionEvent]) -> None:
    tx, count = None, 0
    for event in stream:
        if isinstance(event, ChangeEvent):
            assert event.transaction == tx
            count += 1
        elif event.status == "BEGIN":
            assert tx is None
            tx, count = event.id, 0
        else:
            assert (event.id, event.event_count) == (tx, count)
            tx = None
    assert tx is None


def parked(primary: Primary) -> list[tuple[int, str]]:
    row = primary.tables.parked.c
    with primary.engine.connect() as connection:
        return [tuple(found) for found in connection.execute(sa.select(row.id, row.tx).order_by(row.id))]


def reasons(primary: Primary) -> str:
    with primary.engine.connect() as connection:
        return "\n".join(connection.execute(sa.select(primary.tables.parked.c.reason).distinct()).scalars())


def test_a_transaction_too_large_is_parked_whole_and_the_rest_goes_on(
    primary: Primary, new_settings: NewSettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = new_settings(primary)
    primary.add_shapes(ORDERS, ITEMS)
    primary.add("a", line(ORDERS, "c", 1))
    first = primary.add("b", line(ORDERS, "c", 2), complete=None)
    primary.add("c", line(ORDERS, "c", 3))
    second = primary.add("b", line(ITEMS, "c", 4, TOO_LARGE), line(ORDERS, "c", 5))
    primary.add("d", line(ORDERS, "u", 2))
    with caplog.at_level(logging.ERROR, "rowcast.relay"):
        assert Relay(settings, primary.engine).run_once() == 3
    for isolation in READERS:
        assert keys(settings, isolation) == [1, 3, 2]
    assert parked(primary) == [(first, "b"), (second, "b")]
    assert primary.ids() == []
    assert primary.claims() == 0
    (told,) = caplog.messages
    named = "transaction b is parked (2 outbox rows)", "table public.items", 'key {"id":4}', "1,100,", f"row {second}"
    assert [text for text in named if text not in told] == []
    assert "message.max.bytes in [kafka]" in reasons(primary)


def test_unless_it_is_told_to_park_it_stops_and_has_claimed_nothing_of_it(
    lite: Primary, new_settings: NewSettings
) -> None:
    settings = new_settings(lite, on_unpublishable="stop")
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    too_large = lite.add("b", line(ORDERS, "c", 2), line(ORDERS, "c", 3, TOO_LARGE))
    lite.add("c", line(ORDERS, "c", 4))
    for _ in range(2):
        with pytest.raises(DataError, match=r'public\.orders: a message of 1,100,\d+ bytes .*key {"id":3}.*"park"'):
            Relay(settings, lite.engine).run_once()
    for isolation in READERS:
        assert keys(settings, isolation) == [1]
    assert lite.ids() == [too_large, too_large + 1]
    assert (lite.claims(), parked(lite)) == (0, [])
    # Either way on: it is parked, or Kafka takes it.
    Relay(new_settings(lite, properties={"message.max.bytes": 1_200_000}), lite.engine).run_once()
    assert keys(settings, "read_uncommitted") == [1, 4]
    assert parked(lite) == [(too_large, "b")]


def test_what_is_larger_than_the_producers_queue_would_be_goes_through_where_kafka_takes_it(
    lite: Primary, new_settings: NewSettings, kafka: Broker
) -> None:
    settings = new_settings(lite, properties={"message.max.bytes": 40_000_000})
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    limited = NewTopic(f"{settings.source}.public.orders", 1, 1, config={"max.message.bytes": "40000000"})
    for made in admin.create_topics([limited]).values():
        made.result(30)
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1, "x" * 30_000_000))
    assert Relay(settings, lite.engine).run_once() == 1
    assert parked(lite) == []


def test_a_topics_own_limit_is_heeded(lite: Primary, new_settings: NewSettings, kafka: Broker) -> None:
    settings = new_settings(lite, properties={"message.max.bytes": 4_000_000})
    lite.add_shapes(ORDERS, ITEMS)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    limited = NewTopic(f"{settings.source}.public.orders", 1, 1, config={"max.message.bytes": "2000"})
    admin.create_topics([limited])[limited.topic].result()
    lite.add("a", line(ORDERS, "c", 1, "x" * 1_000))
    lite.add("b", line(ORDERS, "c", 2, "x" * 2_000))
    lite.add("c", line(ITEMS, "c", 3, "x" * 500_000))
    Relay(settings, lite.engine).run_once()
    assert sorted(keys(settings, "read_committed")) == [1, 3]
    assert "the topic takes 2,000" in reasons(lite)

    # Once it is raised, also under the feet of a relay that knows the old one.
    raised = ConfigResource(ConfigResource.Type.TOPIC, limited.topic)
    raised.add_incremental_config(ConfigEntry("max.message.bytes", "4000", incremental_operation=AlterConfigOpType.SET))
    relay = Relay(settings, lite.engine)
    lite.add("d", line(ORDERS, "c", 4, "x" * 1_000))
    relay.run_once()
    admin.incremental_alter_configs([raised])[raised].result()
    lite.add("e", line(ORDERS, "c", 5, "x" * 2_500))
    relay.run_once()
    assert keys(settings, "read_uncommitted") == [1, 3, 4, 5]


@pytest.mark.parametrize("size", [999_000, 999_990, 1_000_100])
def test_kafka_takes_whatever_the_relay_takes_for_small_enough(
    lite: Primary, new_settings: NewSettings, kafka: Broker, size: int
) -> None:
    """At the edge of both limits, the client's and the topic's."""
    settings = new_settings(lite)
    lite.add_shapes(ORDERS, ITEMS)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for table, limit in (("orders", 2_000_000), ("items", 1_000_000)):
        topic = NewTopic(f"{settings.source}.public.{table}", 1, 1, config={"max.message.bytes": str(limit)})
        admin.create_topics([topic])[topic.topic].result()
    for n in range(-700, 100, 50):
        lite.add(f"o{n}", line(ORDERS, "c", 1_000 + n, "x" * (size + n - 100)))
        lite.add(f"i{n}", line(ITEMS, "c", 1_000 + n, "x" * (size + n - 100)))
    Relay(settings, lite.engine).run_once()
    assert len(keys(settings, "read_committed")) + len(parked(lite)) == 32


def test_a_transaction_larger_than_a_claim_is_parked_before_any_of_it_is_published(
    primary: Primary, new_settings: NewSettings
) -> None:
    settings = new_settings(primary, claim_rows=2)
    primary.add_shapes(ORDERS)
    primary.add("a", line(ORDERS, "c", 1))
    rows = [primary.add("b", line(ORDERS, "c", 10 + n), complete=False) for n in range(5)]
    primary.add("c", line(ORDERS, "c", 2))
    rows.append(primary.add("b", line(ORDERS, "c", 99, TOO_LARGE)))
    primary.add("d", line(ORDERS, "c", 3))
    Relay(settings, primary.engine).run_once()
    for isolation in READERS:
        assert keys(settings, isolation) == [1, 2, 3]
    assert parked(primary) == [(row, "b") for row in rows]


def test_one_that_is_half_published_stops_the_relay_and_says_why(lite: Primary, new_settings: NewSettings) -> None:
    """It was begun while the relay was to stop; or its rows were damaged since."""
    lite.add_shapes(ORDERS)
    for n in range(3):
        lite.add("b", line(ORDERS, "c", n), complete=False)
    last = lite.add("b", line(ORDERS, "c", 99, "x" * 1_000_100))
    lite.add("c", line(ORDERS, "c", 4))
    with pytest.raises(DataError, match='on_unpublishable = "park"'):
        Relay(new_settings(lite, claim_rows=2, on_unpublishable="stop"), lite.engine).run_once()
    settings = new_settings(lite, claim_rows=2)
    for _ in range(2):
        with pytest.raises(DataError, match=rf"row {last} .*cannot be parked any more: raise max\.message\.bytes"):
            Relay(settings, lite.engine).run_once()
    assert parked(lite) == []
    assert lite.ids() == [last - 1, last, last + 1]
    Relay(new_settings(lite, properties={"message.max.bytes": 1_040_000}), lite.engine).run_once()
    for isolation in READERS:
        assert keys(settings, isolation) == [0, 1, 2, 99, 4]


DAMAGED = {
    "not JSON": ("garbage\n", "not an outbox line"),
    "no line": ("\n", "not an outbox line"),
    "no line feed": (line(ORDERS, "c", 3)[:-1], "the last line does not end with a line break"),
    "cut off": (line(ORDERS, "c", 3)[:-3] + "\n", "a line is cut off"),
    "two lines in one": (line(ORDERS, "d", 3)[:-1] + line(ORDERS, "d", 4), "the key is no JSON"),
    "unknown table": (line(shape("unknown"), "c", 3), "rowcast_shape has no version"),
    "unknown version": (line(shape("orders", "other"), "c", 3), "rowcast_shape has no version"),
    "no table": ('{"v":"1","op":"d","k":{"id":3}}\n', "not an outbox line"),
    "no key": ('{"t":"public.orders","v":"1","op":"d"}\n', "not an outbox line"),
    "an empty key": (line(ORDERS, "d", 3).replace('{"id" : 3}', "{}"), "the key is empty"),
    "an unknown op": (line(ORDERS, "x", 3), "not an outbox line"),
    "a row deleted": (line(ORDERS, "c", 3).replace('"op":"c"', '"op":"d"'), "op 'd' with a row image"),
    "no row": (line(ORDERS, "d", 3).replace('"op":"d"', '"op":"u"'), "op 'u' without a row image"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_row_stops_the_relay_or_parks_its_transaction(
    lite: Primary, new_settings: NewSettings, kind: str
) -> None:
    changes, reason = DAMAGED[kind]
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    first = lite.add("b", line(ORDERS, "c", 2), complete=None)
    damaged = lite.add("b", changes)
    last = lite.add("c", line(ORDERS, "c", 5))
    settings = new_settings(lite, on_unpublishable="stop")
    with pytest.raises(DataError, match=rf"row {damaged} of rowcast_outbox \(transaction b\): {reason}"):
        Relay(settings, lite.engine).run_once()
    for isolation in READERS:
        assert keys(settings, isolation) == [1]
    assert lite.ids() == [first, damaged, last]
    Relay(new_settings(lite), lite.engine).run_once()
    for isolation in READERS:
        assert keys(settings, isolation) == [1, 5]
    assert parked(lite) == [(first, "b"), (damaged, "b")]
    assert reason in reasons(lite)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("context", "[1]", "its context is damaged"),
        ("context", "{", "its context is damaged"),
        ("ts_ms", "soon", "its ts_ms is no number: 'soon'"),
        ("changes", b"\xff\x00", "its changes are no text"),
    ],
)
def test_so_does_one_that_is_damaged_beside_its_changes(
    lite: Primary, new_settings: NewSettings, column: str, value: Any, reason: str
) -> None:
    settings = new_settings(lite, on_unpublishable="stop")
    lite.add_shapes(ORDERS)
    damaged = lite.add("b", line(ORDERS, "c", 2))
    with lite.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE rowcast_outbox SET {column} = ?", (value,))
    with pytest.raises(DataError, match=rf"row {damaged} of rowcast_outbox \(transaction b\): {reason}"):
        Relay(settings, lite.engine).run_once()
    assert lite.ids() == [damaged]
    Relay(new_settings(lite), lite.engine).run_once()
    assert parked(lite) == [(damaged, "b")]
    assert keys(settings, "read_uncommitted") == []


def test_a_row_that_was_damaged_after_it_was_claimed_stops_the_relay(
    lite: Primary, new_settings: NewSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers may have seen it."""
    settings = new_settings(lite)
    lite.add_shapes(ORDERS)
    damaged = lite.add("b", line(ORDERS, "c", 2))
    faults = Faults(monkeypatch)
    faults.plan(CrashAt("after claim", 1))
    with pytest.raises(CrashError):
        Relay(settings, lite.engine).run_once()
    faults.plan(None)
    with lite.engine.begin() as connection:
        connection.execute(sa.update(lite.tables.outbox).values(changes="garbage\n"))
        connection.execute(sa.update(lite.tables.lease).values(expires_ms=0))
    with pytest.raises(DataError, match=rf"row {damaged} .*cannot be parked any more: mend the row"):
        Relay(settings, lite.engine).run_once()
    assert (lite.ids(), lite.claims(), parked(lite)) == ([damaged], 1, [])
    faults.end()


@pytest.mark.parametrize("step", ["before parking", "after parking", "after claim", "after a commit", "before claim"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_crash_around_parking_loses_and_doubles_nothing(
    primary: Primary, new_settings: NewSettings, monkeypatch: pytest.MonkeyPatch, step: str, n: int
) -> None:
    settings = new_settings(primary, claim_rows=2, kafka_transaction_ms=0 if n == 2 else 20)
    primary.add_shapes(ORDERS)
    expected, large = [], []
    for tx in range(12):
        if tx % 4 == 2:
            large += [primary.add(str(tx), line(ORDERS, "c", 100 + tx), complete=False) for _ in range(tx // 4 + 1)]
            large.append(primary.add(str(tx), "garbage\n"))
        else:
            primary.add(str(tx), line(ORDERS, "c", tx))
            expected.append(tx)
    faults = Faults(monkeypatch)
    faults.plan(CrashAt(step, n))
    with pytest.raises(CrashError):
        Relay(settings, primary.engine).run_once()
    with primary.engine.begin() as connection:
        connection.execute(sa.update(primary.tables.lease).values(expires_ms=0))
    faults.plan(None)
    Relay(settings, primary.engine).run_once()
    for isolation in READERS:
        assert keys(settings, isolation) == expected
    assert [id_ for id_, _ in parked(primary)] == large
    assert (primary.ids(), primary.claims()) == ([], 0)
    faults.end()


def test_a_snapshot_that_meets_a_row_too_large_fails_and_the_rest_goes_on(
    primary: Primary, new_settings: NewSettings
) -> None:
    settings = new_settings(primary, on_unpublishable="stop")
    text = sa.Text().with_variant(mysql.LONGTEXT, "mysql", "mariadb")
    table = sa.Table("orders", sa.MetaData(), sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("note", text))
    table.metadata.create_all(primary.engine)
    primary.add_shapes(ORDERS)
    snapshots = Snapshots(primary.tables)
    with primary.engine.begin() as connection:
        connection.execute(sa.insert(table), [{"id": 1, "note": "a"}, {"id": 2, "note": TOO_LARGE}])
        snapshots.request(connection, ["public.orders"])
        snapshots.request(connection, ["public.orders"], "id = 1")
    primary.add("a", line(ORDERS, "c", 3))
    Relay(settings, primary.engine).run_once()
    with primary.engine.connect() as connection:
        failed, made = snapshots.all(connection)
    assert (failed.state, made.state) == (State.failed, State.done)
    assert 'key {"id":2}, is too large' in str(failed.reason)
    assert "Raise max.message.bytes of the topic" in str(failed.reason)
    for isolation in READERS:
        published = read_topics(str(settings.kafka["bootstrap.servers"]), settings.source, isolation)
        assert [e.key["id"] for e in published.stream if isinstance(e, ChangeEvent)] == [3, 1]
