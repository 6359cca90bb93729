"""Test a transactional producer with a full queue, a refused message or a failed transaction."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from rowcast.producer.relay.kafka import transactional_producer as module
from rowcast.producer.relay.kafka.transactional_producer import TransactionalProducer, defaults
from rowcast.producer.relay.messages.envelopes import Message
from rowcast.shared.errors import DataError, FencedError, RetriableError

EVENT: Message = ("shop.public.orders", b"{}", b'{"id":1}', -1)


class FakeClient:
    """Stand in for librdkafka's producer. ``errors``: raised in order by the call of this name."""

    def __init__(self, own: dict[str, Any]) -> None:
        self.own = own
        self.produced: list[tuple[Any, ...]] = []
        self.errors: dict[str, list[BaseException]] = {}
        self.unacknowledged = 0
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.errors.get(name):
            raise self.errors[name].pop(0)

    def init_transactions(self, timeout: float) -> None:
        self._call("init_transactions")

    def begin_transaction(self) -> None:
        self._call("begin_transaction")

    def produce(self, *message: Any) -> None:
        self._call("produce")
        self.produced.append(message)

    def poll(self, timeout: float) -> None:
        self._call("poll")

    def flush(self, timeout: float) -> int:
        self._call("flush")
        return self.unacknowledged

    def commit_transaction(self, timeout: float) -> None:
        self._call("commit_transaction")

    def abort_transaction(self, timeout: float) -> None:
        self._call("abort_transaction")

    def purge(self) -> None:
        self._call("purge")


class Failed(KafkaError):
    """Stand for an error after which the transaction must be aborted."""

    def txn_requires_abort(self) -> bool:
        return True


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[FakeClient]:
    made: list[FakeClient] = []

    def new_producer(properties: Any, extra: str, own: dict[str, Any]) -> FakeClient:
        made.append(FakeClient(own))
        return made[-1]

    monkeypatch.setattr(module, "new_producer", new_producer)
    return made


@pytest.fixture
def producer(clients: list[FakeClient]) -> TransactionalProducer:
    return TransactionalProducer({}, "rowcast.shop-0")


@pytest.fixture
def client(producer: TransactionalProducer, clients: list[FakeClient]) -> FakeClient:
    return clients[0]


def nothing() -> None:
    pass


def error(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))


def test_the_first_message_begins_a_transaction_and_a_commit_ends_it(
    producer: TransactionalProducer, client: FakeClient
) -> None:
    assert producer.begun_at is None
    producer.send([EVENT, EVENT], nothing)
    producer.send([EVENT], nothing)
    assert producer.begun_at is not None
    assert client.calls.count("begin_transaction") == 1
    assert client.produced == [EVENT] * 3
    producer.commit(1.0)
    assert producer.begun_at is None


def test_a_message_waits_for_room_and_the_lease_is_renewed(producer: TransactionalProducer, client: FakeClient) -> None:
    client.errors["produce"] = [BufferError(), BufferError(), BufferError()]
    renewals: list[int] = []
    producer.send([EVENT, EVENT], lambda: renewals.append(1))
    assert client.produced == [EVENT, EVENT]
    assert len(renewals) == 3


def test_a_message_that_is_too_large_for_the_client_is_named(
    producer: TransactionalProducer, client: FakeClient
) -> None:
    client.errors["produce"] = [error(KafkaError.MSG_SIZE_TOO_LARGE)]
    with pytest.raises(DataError, match=r"a message of 10 bytes for the topic shop\.public\.orders is larger"):
        producer.send([EVENT], nothing)


def test_a_message_that_is_too_large_for_the_broker_is_named(
    producer: TransactionalProducer, client: FakeClient
) -> None:
    class Undelivered:
        def topic(self) -> str:
            return "shop.public.orders"

        def value(self) -> bytes:
            return b"{}"

        def key(self) -> bytes:
            return b'{"id":1}'

    client.own["on_delivery"](KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), Undelivered())
    with pytest.raises(DataError, match="a message of 10 bytes"):
        producer.flush(1.0)


def test_the_reason_of_an_earlier_failure_is_found_by_a_commit(
    producer: TransactionalProducer, client: FakeClient
) -> None:
    client.errors["produce"] = [error(KafkaError._STATE)]
    client.errors["commit_transaction"] = [error(KafkaError._FENCED)]
    with pytest.raises(FencedError):
        producer.send([EVENT], nothing)


def test_flush_times_out_while_messages_are_not_acknowledged(
    producer: TransactionalProducer, client: FakeClient
) -> None:
    client.unacknowledged = 2
    client.errors["begin_transaction"] = [error(KafkaError._STATE)]
    with pytest.raises(KafkaException, match="2 messages are not acknowledged"):
        producer.flush(1.0)


def test_flush_raises_the_failure_of_the_transaction(producer: TransactionalProducer, client: FakeClient) -> None:
    client.unacknowledged = 2
    client.errors["begin_transaction"] = [KafkaException(Failed(KafkaError._TRANSPORT))]
    with pytest.raises(RetriableError, match="producing"):
        producer.flush(1.0)


def test_push_says_whether_everything_is_acknowledged(producer: TransactionalProducer, client: FakeClient) -> None:
    assert producer.push()
    client.unacknowledged = 1
    assert not producer.push()


def test_close_aborts_an_open_transaction_and_drops_its_messages(
    producer: TransactionalProducer, client: FakeClient
) -> None:
    producer.send([EVENT], nothing)
    client.calls.clear()
    producer.close()
    assert client.calls == ["abort_transaction", "purge", "poll"]


def test_close_ignores_errors_of_kafka(producer: TransactionalProducer, client: FakeClient) -> None:
    producer.send([EVENT], nothing)
    client.errors["abort_transaction"] = [error(KafkaError._TIMED_OUT)]
    client.errors["purge"] = [error(KafkaError._STATE)]
    producer.close()


def test_the_configuration_overrides_the_defaults_and_not_what_is_required(clients: list[FakeClient]) -> None:
    TransactionalProducer({"linger.ms": 5}, "rowcast.shop-0")
    own = clients[0].own
    assert "linger.ms" not in own
    assert own["enable.idempotence"] is True
    assert own["partitioner"] == "murmur2_random"
    assert own["transactional.id"] == "rowcast.shop-0"


def test_the_queue_has_room_for_two_of_the_largest_messages() -> None:
    assert defaults({})["queue.buffering.max.kbytes"] == 24 * 1024
    assert defaults({"message.max.bytes": 64 * 1024 * 1024})["queue.buffering.max.kbytes"] == 128 * 1024
