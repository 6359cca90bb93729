"""Two producers take turns: order of events and commits, retries, and renewals of the lease while Kafka is slow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from rowcast.producer.relay.kafka import idle_contact
from rowcast.producer.relay.kafka import publisher as module
from rowcast.producer.relay.kafka.marker import Markers
from rowcast.producer.relay.kafka.publisher import Publisher
from rowcast.producer.relay.messages.envelopes import Message
from rowcast.shared.errors import ConfigurationError, FencedError, RetriableError
from support.relay.threads import wait_until

EVENT: Message = ("shop.public.orders", b"{}", b'{"id":1}', -1)

log: list[str] = []
"""The calls to the producers of a test, in order."""


class FakeProducer:
    """Stand in for ``TransactionalProducer``. ``failures``: raised in order by the call of this name."""

    def __init__(self, properties: Any, transactional_id: str) -> None:
        self.name = transactional_id[-1]
        self.begun_at: float | None = None
        self.failures: dict[str, list[Exception]] = {}
        self.gate = threading.Event()
        self.gate.set()

    def _did(self, what: str) -> None:
        if self.failures.get(what):
            raise self.failures[what].pop(0)
        log.append(f"{what} {self.name}")

    def fence(self, timeout: float) -> None:
        self._did("fence")

    def send(self, messages: Iterable[Message], renew_lease: Callable[[], None]) -> None:
        self.begun_at = 1.0
        for message in messages:
            self._did("marker" if b"lsn" in (message[1] or b"") else "event")

    def push(self) -> bool:
        self._did("push")
        return False

    def flush(self, timeout: float) -> None:
        self._did("flush")

    def commit(self, timeout: float) -> None:
        assert self.gate.wait(30)
        self._did("commit")
        self.begun_at = None

    def ask_for_brokers(self, topic: str, timeout: float) -> None:
        self._did("ask")

    def close(self) -> None:
        self._did("close")


class FakeMarkerReader:
    def __init__(self, properties: Any, source: str) -> None:
        self.markers = Markers(5, 9)

    def read(self, timeout: float) -> Markers:
        return self.markers

    def close(self) -> None:
        pass


@pytest.fixture
def renewals(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return []


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch, renewals: list[str]) -> Iterator[Any]:
    log.clear()
    monkeypatch.setattr(module, "TransactionalProducer", FakeProducer)
    monkeypatch.setattr(module, "MarkerReader", FakeMarkerReader)
    monkeypatch.setattr(module, "_ATTEMPT_S", 0.01)
    publisher: Any = Publisher(
        {"bootstrap.servers": "host:1"}, "shop", lambda: renewals.append("renewed"), lambda: None
    )
    producers = (publisher._active, publisher._other)
    yield publisher
    for producer in producers:
        producer.gate.set()
    publisher.close()


def kafka_error(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))


def test_both_producers_are_fenced_and_the_epoch_is_checked_before_each(publisher: Any) -> None:
    publisher.fence(lambda: log.append("check"))
    assert log == ["check", "fence 0", "check", "fence 1"]


def test_a_relay_that_has_a_successor_fences_no_producer(publisher: Any) -> None:
    def check_epoch() -> None:
        raise FencedError("another relay has taken over")

    with pytest.raises(FencedError):
        publisher.fence(check_epoch)
    assert log == []


def test_the_marker_is_the_last_record_of_each_claim(publisher: Any) -> None:
    publisher.send([EVENT, EVENT], 4)
    publisher.send([EVENT], 7)
    assert log == ["event 0", "event 0", "marker 0", "event 0", "marker 0"]


def test_after_a_commit_has_begun_the_other_producer_sends(publisher: Any) -> None:
    publisher.send([EVENT], 4)
    publisher.begin_commit(4)
    publisher.send([EVENT], 7)
    assert publisher.take_committed(wait=True) == 4
    publisher.begin_commit(7)
    assert publisher.take_committed(wait=True) == 7
    publisher.send([EVENT], 9)
    assert [step for step in log if step.startswith(("event", "commit"))] == [
        "event 0", *[step for step in log if step in ("event 1", "commit 0")], "commit 1", "event 0",
    ]  # fmt: skip


def test_an_idle_publisher_asks_for_the_brokers_and_says_so_until_the_answer(
    publisher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle_contact, "_EVERY_S", 0.0)
    publisher._active.failures["ask"] = [kafka_error(KafkaError._TIMED_OUT)]
    publisher.send([EVENT], 4)
    publisher.ask_if_idle()
    assert publisher.unanswered() is None, "a Kafka transaction is open"
    publisher.begin_commit(4)
    publisher.take_committed(wait=True)
    publisher.ask_if_idle()
    assert publisher.unanswered().action == "asking for the brokers"
    # An unanswered question is asked again at once, and an answered one is not.
    monkeypatch.setattr(idle_contact, "_EVERY_S", 10.0)
    wait_until(lambda: publisher.ask_if_idle() or publisher.unanswered() is None)
    assert log.count("ask 0") >= 1


def test_nothing_is_sent_before_the_other_producers_messages_are_acknowledged(publisher: Any) -> None:
    first = publisher._active
    first.failures["flush"] = [kafka_error(KafkaError._TIMED_OUT)] * 3
    publisher.send([EVENT], 4)
    publisher.begin_commit(4)
    publisher.send([EVENT], 7)
    assert log.index("flush 0") < log.index("event 1")


def test_a_second_commit_waits_for_the_first(publisher: Any, renewals: list[str]) -> None:
    first = publisher._active
    first.gate.clear()
    publisher.send([EVENT], 4)
    publisher.begin_commit(4)
    publisher.send([EVENT], 7)
    assert publisher.committing
    assert publisher.take_committed() is None
    threading.Timer(0.1, first.gate.set).start()
    publisher.begin_commit(7)
    assert publisher.take_committed(wait=True) == 7
    assert log.index("commit 0") < log.index("commit 1")
    assert renewals, "the lease is renewed while the relay waits for the commit"


def test_without_an_open_transaction_nothing_is_committed(publisher: Any) -> None:
    publisher.begin_commit(4)
    assert publisher.take_committed(wait=True) is None
    assert publisher.push()
    assert log == []


def test_a_result_is_returned_once(publisher: Any) -> None:
    publisher.send([EVENT], 4)
    publisher.begin_commit(4)
    assert publisher.take_committed(wait=True) == 4
    assert publisher.take_committed(wait=True) is None
    assert not publisher.committing


@pytest.mark.parametrize("code", [KafkaError._TIMED_OUT, KafkaError.LEADER_NOT_AVAILABLE])
def test_a_transient_error_is_tried_again_and_the_lease_renewed(publisher: Any, renewals: list[str], code: int) -> None:
    publisher._active.failures["fence"] = [kafka_error(code)] * 2
    publisher.fence(lambda: None)
    assert log == ["fence 0", "fence 1"]
    assert renewals == ["renewed"] * 2


def test_kafka_is_given_up_after_a_minute(publisher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GIVE_UP_AFTER_S", 0.0)
    publisher._active.failures["fence"] = [kafka_error(KafkaError._TIMED_OUT)] * 2
    with pytest.raises(RetriableError, match="Kafka at host:1 did not answer for 0 s: fencing the predecessor"):
        publisher.fence(lambda: None)


def test_a_lasting_error_is_raised_with_the_step_that_failed(publisher: Any) -> None:
    publisher._active.failures["fence"] = [kafka_error(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)]
    with pytest.raises(ConfigurationError, match="fencing the predecessor"):
        publisher.fence(lambda: None)


def test_a_failed_commit_is_raised_by_the_next_call_that_asks(publisher: Any) -> None:
    publisher._active.failures["commit"] = [kafka_error(KafkaError._FENCED)]
    publisher.send([EVENT], 4)
    publisher.begin_commit(4)
    with pytest.raises(FencedError, match="committing the Kafka transaction"):
        publisher.take_committed(wait=True)


def test_after_close_a_commit_in_the_background_is_given_up(publisher: Any) -> None:
    publisher._active.failures["flush"] = [kafka_error(KafkaError._TIMED_OUT)] * 10_000
    publisher.send([EVENT], 4)
    publisher.begin_commit(4)
    commit = publisher._commit
    publisher.close()
    with pytest.raises(RetriableError, match="stopped waiting"):
        commit.acknowledged.result()


def test_the_markers_of_the_predecessor_are_returned(publisher: Any) -> None:
    assert publisher.markers() == Markers(5, 9)
