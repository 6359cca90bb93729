"""The relay stops before a transaction that cannot be published, or parks it and publishes the rest."""

from __future__ import annotations

import logging
from functools import partial
from itertools import pairwise

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import NewTopic
from sqlalchemy.dialects import mysql

from rowcast.producer.outbox.snapshot_requests import SnapshotRequests, SnapshotState
from rowcast.producer.relay import Relay
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import ChangeEvent, TransactionEvent
from servers import Broker
from support.kafka_admin import create_topics, set_config
from support.relay.fault_injection import CrashAt, CrashError, Faults
from support.relay.primary import ITEMS, ORDERS, Primary, line, shape
from support.relay.settings import NewSettings, settings_of
from support.relay.topic_reader import Isolation, read_topics

pytestmark = pytest.mark.shared_dialect

READERS: tuple[Isolation, ...] = ("read_committed", "read_uncommitted")
TOO_LARGE = "x" * 1_100_000


@pytest.fixture
def new_settings(kafka: Broker, source_name: str) -> NewSettings:
    return partial(settings_of, kafka, source_name, on_unpublishable="park")


def keys(settings: Settings, isolation: Isolation) -> list[int]:
    """Return the keys of the events in order, after a check that BEGIN and END enclose each transaction."""
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
    return "\n".join(reasons_by_transaction(primary).values())


def reasons_by_transaction(primary: Primary) -> dict[str, str]:
    row = primary.tables.parked.c
    with primary.engine.connect() as connection:
        return {found.tx: found.reason for found in connection.execute(sa.select(row.tx, row.reason))}


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
    (reason_starts,) = caplog.messages
    named = "transaction b is parked (2 outbox rows)", "table public.items", "1,100,", f"row {second}"
    assert [text for text in named if text not in reason_starts] == []
    assert "message.max.bytes in [kafka]" in reasons(primary)


def test_a_relay_that_may_not_park_stops_before_it_claims_the_transaction(
    lite: Primary, new_settings: NewSettings
) -> None:
    settings = new_settings(lite, on_unpublishable="stop")
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    too_large = lite.add("b", line(ORDERS, "c", 2), line(ORDERS, "c", 3, TOO_LARGE))
    lite.add("c", line(ORDERS, "c", 4))
    for _ in range(2):
        with pytest.raises(DataError, match=r'public\.orders: a message of 1,100,\d+ bytes .*"park"'):
            Relay(settings, lite.engine).run_once()
    for isolation in READERS:
        assert keys(settings, isolation) == [1]
    assert lite.ids() == [too_large, too_large + 1]
    assert (lite.claims(), parked(lite)) == (0, [])
    # Both results are right: the transaction is parked, or Kafka accepts it.
    Relay(new_settings(lite, properties={"message.max.bytes": 1_200_000}), lite.engine).run_once()
    assert keys(settings, "read_uncommitted") == [1, 4]
    assert parked(lite) == [(too_large, "b")]


def test_a_message_larger_than_the_default_queue_is_published_if_kafka_accepts_it(
    lite: Primary, new_settings: NewSettings, kafka: Broker
) -> None:
    settings = new_settings(lite, properties={"message.max.bytes": 40_000_000})
    limited = NewTopic(f"{settings.source}.public.orders", 1, 1, config={"max.message.bytes": "40000000"})
    create_topics(kafka.bootstrap_servers, limited)
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1, "x" * 26_000_000))
    assert Relay(settings, lite.engine).run_once() == 1
    assert parked(lite) == []


def test_the_size_limit_of_a_topic_applies(lite: Primary, new_settings: NewSettings, kafka: Broker) -> None:
    settings = new_settings(lite, properties={"message.max.bytes": 4_000_000})
    lite.add_shapes(ORDERS, ITEMS)
    limited = NewTopic(f"{settings.source}.public.orders", 1, 1, config={"max.message.bytes": "2000"})
    create_topics(kafka.bootstrap_servers, limited)
    lite.add("a", line(ORDERS, "c", 1, "x" * 1_000))
    lite.add("b", line(ORDERS, "c", 2, "x" * 2_000))
    lite.add("c", line(ITEMS, "c", 3, "x" * 500_000))
    Relay(settings, lite.engine).run_once()
    assert sorted(keys(settings, "read_committed")) == [1, 3]
    assert "the topic takes 2,000" in reasons(lite)

    # Raise the limit. A relay that has cached the old limit must notice the new limit.
    relay = Relay(settings, lite.engine)
    lite.add("d", line(ORDERS, "c", 4, "x" * 1_000))
    relay.run_once()
    set_config(kafka.bootstrap_servers, limited.topic, "max.message.bytes", "4000")
    lite.add("e", line(ORDERS, "c", 5, "x" * 2_500))
    relay.run_once()
    assert keys(settings, "read_uncommitted") == [1, 3, 4, 5]


def test_kafka_accepts_every_message_that_the_relay_finds_small_enough(
    lite: Primary, new_settings: NewSettings, kafka: Broker
) -> None:
    """The message sizes are at the edge of both limits, the client's and the topic's."""
    settings = new_settings(lite)
    lite.add_shapes(ORDERS, ITEMS)
    for table, limit in (("orders", 2_000_000), ("items", 1_000_000)):
        topic = NewTopic(f"{settings.source}.public.{table}", 1, 1, config={"max.message.bytes": str(limit)})
        create_topics(kafka.bootstrap_servers, topic)
    sizes = range(998_200, 1_000_100, 50)
    for size in sizes:
        lite.add(f"o{size}", line(ORDERS, "c", size, "x" * size))
        lite.add(f"i{size}", line(ITEMS, "c", size, "x" * size))
    Relay(settings, lite.engine).run_once()
    assert len(keys(settings, "read_committed")) + len(parked(lite)) == 2 * len(sizes)


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


def test_a_half_published_transaction_stops_the_relay_with_the_reason(lite: Primary, new_settings: NewSettings) -> None:
    """The relay began the transaction with parking off, or the rows were damaged later."""
    lite.add_shapes(ORDERS)
    for n in range(3):
        lite.add("b", line(ORDERS, "c", n), complete=False)
    last = lite.add("b", line(ORDERS, "c", 99, "x" * 1_000_100))
    lite.add("c", line(ORDERS, "c", 4))
    with pytest.raises(DataError, match='on_unpublishable = "park"'):
        Relay(new_settings(lite, claim_rows=2, on_unpublishable="stop"), lite.engine).run_once()
    settings = new_settings(lite, claim_rows=2)
    for _ in range(2):
        with pytest.raises(DataError, match=rf"row {last} .*cannot park it any more: raise max\.message\.bytes"):
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
    "no JSON image": (line(ORDERS, "c", 3).replace('"note"', "note"), "a row image is not JSON"),
    "no row": (line(ORDERS, "d", 3).replace('"op":"d"', '"op":"u"'), "op 'u' without a row image"),
}


DAMAGED_COLUMNS = {
    "context no object": ("context", "[1]", "its context is damaged"),
    "context cut off": ("context", "{", "its context is damaged"),
    "ts_ms no number": ("ts_ms", "soon", "its ts_ms is not a number"),
    "changes no text": ("changes", b"\xff\x00", "its changes are not text"),
}


def test_each_damaged_row_parks_its_own_transaction_with_the_reason(lite: Primary, new_settings: NewSettings) -> None:
    """A relay that may not park stops with the same reason: see test_nothing_is_published_past_a_damaged_row."""
    lite.add_shapes(ORDERS)
    expected: list[tuple[int, str]] = []
    reason_starts: dict[str, str] = {}

    def add_damaged(tx: str, changes: str, reason: str) -> int:
        """Add a sound transaction, and a transaction with a sound row and this row. Return the id of this row."""
        lite.add(f"before {tx}", line(ORDERS, "c", len(reason_starts)))
        first = lite.add(tx, line(ORDERS, "c", 100), complete=None)
        damaged = lite.add(tx, changes)
        expected.extend([(first, tx), (damaged, tx)])
        reason_starts[tx] = f"row {damaged} of rowcast_outbox (transaction {tx}): {reason}"
        return damaged

    for kind, (changes, reason) in DAMAGED.items():
        add_damaged(kind, changes, reason)
    for kind, (column, value, reason) in DAMAGED_COLUMNS.items():
        damaged = add_damaged(kind, line(ORDERS, "c", 101), reason)
        with lite.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE rowcast_outbox SET {column} = ? WHERE id = ?", (value, damaged))
    settings = new_settings(lite)
    Relay(settings, lite.engine).run_once()
    for isolation in READERS:
        assert keys(settings, isolation) == list(range(len(reason_starts)))
    assert parked(lite) == expected
    found = reasons_by_transaction(lite)
    assert found.keys() == reason_starts.keys()
    assert {tx: found[tx][: len(reason)] for tx, reason in reason_starts.items()} == reason_starts


def test_a_row_that_was_damaged_after_it_was_claimed_stops_the_relay(
    lite: Primary, new_settings: NewSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers may have seen a part of the transaction."""
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
    with pytest.raises(DataError, match=rf"row {damaged} .*cannot park it any more: correct the row"):
        Relay(settings, lite.engine).run_once()
    assert (lite.ids(), lite.claims(), parked(lite)) == ([damaged], 1, [])
    faults.end()


STEPS = ("before parking", "after parking", "after claim", "after a commit", "before claim")


# The relay parks with the same statements on each engine. PostgreSQL writes the claims around it differently.
@pytest.mark.parametrize(
    ("primary_url", "step"),
    [*(("sqlite", step) for step in STEPS), ("postgresql", "before parking"), ("postgresql", "after parking")],
    indirect=["primary_url"],
)
def test_crashes_around_parking_lose_and_double_nothing(
    primary: Primary, new_settings: NewSettings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The first relay crashes at the first step of this name, the next at its second, and the next at its third."""
    primary.add_shapes(ORDERS)
    expected, large = [], []
    for tx in range(24):
        if tx % 4 == 2:
            large += [primary.add(str(tx), line(ORDERS, "c", 100 + tx), complete=False) for _ in range(tx // 4 + 1)]
            large.append(primary.add(str(tx), "garbage\n"))
        else:
            primary.add(str(tx), line(ORDERS, "c", tx))
            expected.append(tx)
    faults = Faults(monkeypatch)
    for n, kafka_transaction_ms in ((1, 20), (2, 0), (3, 20)):
        settings = new_settings(primary, claim_rows=2, kafka_transaction_ms=kafka_transaction_ms)
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
    snapshots = SnapshotRequests(primary.tables)
    with primary.engine.begin() as connection:
        connection.execute(sa.insert(table), [{"id": 1, "note": "a"}, {"id": 2, "note": TOO_LARGE}])
        snapshots.request(connection, ["public.orders"])
        snapshots.request(connection, ["public.orders"], "id = 1")
    primary.add("a", line(ORDERS, "c", 3))
    Relay(settings, primary.engine).run_once()
    with primary.engine.connect() as connection:
        failed, made = snapshots.all(connection)
    assert (failed.state, made.state) == (SnapshotState.failed, SnapshotState.done)
    assert "public.orders is too large" in str(failed.reason)
    assert "Raise max.message.bytes of the topic" in str(failed.reason)
    for isolation in READERS:
        published = read_topics(str(settings.kafka["bootstrap.servers"]), settings.source, isolation)
        assert [e.key["id"] for e in published.stream if isinstance(e, ChangeEvent)] == [3, 1]
