"""Test when a leader commits, pushes and sends heartbeats, and which shapes it publishes before events."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from rowcast.producer.outbox.line_parser import LineHead
from rowcast.producer.relay.leader.sender import Sender
from rowcast.producer.relay.messages.envelopes import Message
from rowcast.producer.relay.messages.table_versions import TableVersion
from rowcast.shared.config.relay_settings import RelaySettings
from support.relay.primary import ORDERS

EVENT: Message = ("shop.public.orders", b"{}", b'{"id":1}', -1)
TOPIC = "shop.public.orders"


class FakeKafka:
    """Stand in for publisher and topics, and log the calls."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.begun_at: float | None = None
        self.committing = False
        self.acknowledges = True
        self.sent: list[Message] = []
        self._committed: int | None = None

    def send(self, messages: Iterable[Message], lsn: int) -> None:
        self.sent += messages
        self.begun_at = self.begun_at or time.monotonic()
        self.log.append(f"send {lsn}")

    def push(self) -> bool:
        self.log.append("push")
        return self.acknowledges

    def begin_commit(self, lsn: int) -> None:
        if self.begun_at is not None:
            self.log.append(f"commit {lsn}")
            self.begun_at, self._committed = None, lsn

    def take_committed(self, *, wait: bool = False) -> int | None:
        committed, self._committed = self._committed, None
        return committed

    def ensure(self, names: Iterable[str], renew_lease: Callable[[], None]) -> None:
        self.log.append(f"topics {sorted(names)}")


class FakeTables:
    """Stand in for tables with a single unpublished shape."""

    def __init__(self) -> None:
        document = ORDERS.to_json().decode()
        self.table = TableVersion("public", "orders", ORDERS.version, document, TOPIC, ORDERS)
        self.due = [self.table]

    def to_publish(self, heads: Collection[LineHead]) -> list[TableVersion]:
        due, self.due = self.due, []
        return due

    def get(self, head: LineHead) -> TableVersion:
        return self.table


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def kafka() -> FakeKafka:
    return FakeKafka()


def new_sender(kafka: Any, committed: list[int] | None = None, **relay: Any) -> Sender:
    settings = RelaySettings(**{"heartbeat_ms": 0, "kafka_transaction_ms": 1_000, "claim_rows": 10} | relay)
    heartbeat = SimpleNamespace(renew_lease=lambda: None)
    epoch: Any = SimpleNamespace(source="shop", relay_settings=settings, heartbeat=heartbeat)
    tables: Any = FakeTables()
    notes: Any = SimpleNamespace(refresh=lambda: None, of=lambda table: {})
    return Sender(epoch, kafka, kafka, tables, notes, (committed if committed is not None else []).append)


def test_shapes_and_topics_come_before_the_events_and_in_a_transaction_of_their_own(kafka: FakeKafka) -> None:
    sender = new_sender(kafka)
    sender.send([EVENT], 3)
    sender.prepare({LineHead("public.orders", ORDERS.version, "c")})
    assert kafka.log == [
        "send 3", "commit 3", f"topics ['{TOPIC}']", "send 3", "commit 3", f"topics ['{TOPIC}']",
    ]  # fmt: skip
    kafka.log.clear()
    sender.prepare({LineHead("public.orders", ORDERS.version, "c")})
    assert kafka.log == [f"topics ['{TOPIC}']"]


def test_a_transaction_is_committed_when_its_time_has_come(clock: SimpleNamespace, kafka: FakeKafka) -> None:
    sender = new_sender(kafka)
    sender.send([EVENT], 3)
    sender.commit_if_due(idle=False)
    assert kafka.log == ["send 3"]
    clock.now += 1.0
    sender.commit_if_due(idle=False)
    assert kafka.log == ["send 3", "commit 3"]


def test_an_idle_transaction_is_committed_early(clock: SimpleNamespace, kafka: FakeKafka) -> None:
    sender = new_sender(kafka)
    sender.send([EVENT], 3)
    clock.now += 0.25
    sender.commit_if_due(idle=False)
    assert kafka.log == ["send 3"]
    sender.commit_if_due(idle=True)
    assert kafka.log == ["send 3", "commit 3"]


def test_a_transaction_of_many_rows_is_committed_early(clock: SimpleNamespace, kafka: FakeKafka) -> None:
    sender = new_sender(kafka)
    sender.send([EVENT], 3, rows=39)
    sender.commit_if_due(idle=False)
    assert kafka.log == ["send 3"]
    sender.send([EVENT], 4, rows=1)
    sender.commit_if_due(idle=False)
    assert kafka.log == ["send 3", "send 4", "commit 4"]


def test_no_commit_begins_while_another_is_under_way(clock: SimpleNamespace, kafka: FakeKafka) -> None:
    sender = new_sender(kafka)
    sender.send([EVENT], 3)
    clock.now += 5
    kafka.committing = True
    sender.commit_if_due(idle=True)
    assert kafka.log == ["send 3"]
    assert sender.longest_pause_s == float("inf")


def test_a_commit_is_reported_with_its_lsn(kafka: FakeKafka) -> None:
    committed: list[int] = []
    sender = new_sender(kafka, committed)
    sender.send([EVENT], 3)
    sender.commit()
    sender.poll_commits()
    assert committed == [3]


def test_lingering_messages_are_pushed_until_they_are_acknowledged(clock: SimpleNamespace, kafka: FakeKafka) -> None:
    sender = new_sender(kafka)
    kafka.acknowledges = False
    sender.send([EVENT], 3)
    assert sender.push(sent=True)
    assert sender.push(sent=False)
    kafka.acknowledges = True
    assert not sender.push(sent=False)
    assert not sender.push(sent=False)
    assert kafka.log.count("push") == 3


def test_pushing_ends_after_a_moment(clock: SimpleNamespace, kafka: FakeKafka) -> None:
    sender = new_sender(kafka)
    kafka.acknowledges = False
    sender.send([EVENT], 3)
    assert sender.push(sent=True)
    clock.now += 0.2
    assert not sender.push(sent=False)


def test_a_heartbeat_is_sent_when_nothing_was_sent_for_its_interval(clock: SimpleNamespace, kafka: FakeKafka) -> None:
    sender = new_sender(kafka, heartbeat_ms=1_000)
    sender.send([EVENT], 3)
    sender.send_heartbeat_if_due()
    assert len(kafka.sent) == 1
    assert sender.longest_pause_s == pytest.approx(0.2)
    clock.now += 1.0
    sender.send_heartbeat_if_due()
    assert kafka.sent[-1][0] == "__debezium-heartbeat.shop"
    assert sender.lsn == 3


def test_without_a_heartbeat_interval_no_heartbeat_is_sent(clock: SimpleNamespace, kafka: FakeKafka) -> None:
    sender = new_sender(kafka)
    clock.now += 1_000
    sender.send_heartbeat_if_due()
    assert kafka.sent == []
    assert sender.longest_pause_s == float("inf")


def test_a_transaction_is_committed_early_when_kafka_has_not_committed_the_allowed_number_of_claims(
    clock: SimpleNamespace, kafka: FakeKafka
) -> None:
    sender = new_sender(kafka, max_claims=3)
    sender.send([EVENT], 3)
    sender.send([EVENT], 4)
    sender.begin_commit()
    kafka.log.clear()
    kafka.committing = True
    sender.commit_if_due(idle=False)
    assert kafka.log == []
    sender.send([EVENT], 5)
    sender.commit_if_due(idle=False)
    assert kafka.log == ["send 5", "commit 5"]


def test_replayed_claims_share_a_transaction_until_it_is_full_or_old(clock: SimpleNamespace, kafka: FakeKafka) -> None:
    sender = new_sender(kafka)
    sender.send([EVENT], 3, rows=39)
    sender.commit_replayed()
    assert kafka.log == ["send 3"]
    sender.send([EVENT], 4, rows=1)
    sender.commit_replayed()
    assert kafka.log == ["send 3", "send 4", "commit 4"]
    sender.send([EVENT], 5)
    clock.now += 5
    sender.commit_replayed()
    assert kafka.log == ["send 3", "send 4", "commit 4", "send 5", "commit 5"]
