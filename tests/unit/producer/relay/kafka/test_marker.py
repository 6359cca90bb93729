"""The last marker is found behind any number of control records, and another record at the end is an error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException

from rowcast.producer.relay.kafka import marker as module
from rowcast.producer.relay.kafka.marker import MarkerReader, Markers, marker_message
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.topic_names import marker_topic

CONTROL_RECORD = None


class Record:
    def __init__(self, value: bytes | None, offset: int, code: int | None = None) -> None:
        self._value = value
        self._offset = offset
        self._code = code

    def value(self) -> bytes | None:
        return self._value

    def offset(self) -> int:
        return self._offset

    def error(self) -> KafkaError | None:
        return None if self._code is None else KafkaError(self._code)


class FakeConsumer:
    """Stand in for a topic with a single partition. Control records are offsets without a record."""

    def __init__(self, topic: list[bytes | None]) -> None:
        self.topic = topic
        self.assigned: list[int] = []
        self.hangs = self.is_refused = self.is_closed = False
        self.early_ends: list[int] = []
        """Offsets at which the broker says that the topic ends, before it gives the rest."""

    def get_watermark_offsets(self, partition: Any, timeout: float) -> tuple[int, int]:
        if self.is_refused:
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_TOPIC))
        return 0, len(self.topic)

    def list_topics(self, name: str, timeout: float) -> Any:
        refused = SimpleNamespace(error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
        return SimpleNamespace(topics={name: refused})

    def assign(self, partitions: list[Any]) -> None:
        self.assigned.append(partitions[0].offset)
        self._next = partitions[0].offset

    def poll(self, timeout: float) -> Record | None:
        if self.hangs:
            return None
        if self._next in self.early_ends:
            self.early_ends.remove(self._next)
            return Record(None, self._next, KafkaError._PARTITION_EOF)
        while self._next < len(self.topic):
            self._next += 1
            if (value := self.topic[self._next - 1]) is not CONTROL_RECORD:
                return Record(value, self._next - 1)
        return Record(None, self._next, KafkaError._PARTITION_EOF)

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def consumers(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeConsumer]:
    """Return the consumers by isolation level, with empty topics."""
    consumers = {"read_committed": FakeConsumer([]), "read_uncommitted": FakeConsumer([])}
    monkeypatch.setattr(module, "new_consumer", lambda properties, extra, own: consumers[own["isolation.level"]])
    return consumers


def marker(lsn: int) -> bytes:
    value = marker_message("shop", lsn)[1]
    assert value is not None
    return value


def read() -> Markers:
    return MarkerReader({}, "shop").read(1.0)


def test_a_marker_message_goes_to_the_only_partition_of_its_topic() -> None:
    topic, value, _, partition = marker_message("shop", 12)[:4]
    assert (topic, partition, orjson.loads(value or b"")) == (marker_topic("shop"), 0, {"lsn": 12})


def test_without_a_marker_both_are_none(consumers: dict[str, FakeConsumer]) -> None:
    assert read() == Markers(None, None)


def test_the_last_marker_counts_committed_or_not(consumers: dict[str, FakeConsumer]) -> None:
    consumers["read_committed"].topic = [marker(3), CONTROL_RECORD]
    consumers["read_uncommitted"].topic = [marker(3), CONTROL_RECORD, marker(8)]
    assert read() == Markers(3, 8)


def test_only_the_end_of_a_long_topic_is_read(consumers: dict[str, FakeConsumer]) -> None:
    consumers["read_committed"].topic = [marker(n) for n in range(1_000)]
    assert read().committed == 999
    assert consumers["read_committed"].assigned == [936]


def test_a_marker_before_many_control_records_is_found(consumers: dict[str, FakeConsumer]) -> None:
    consumers["read_committed"].topic = [marker(5), *[CONTROL_RECORD] * 500]
    assert read().committed == 5
    assert consumers["read_committed"].assigned == [437, 245, 0]


def test_an_end_that_comes_too_early_is_passed(consumers: dict[str, FakeConsumer]) -> None:
    consumers["read_committed"].topic = [marker(5), CONTROL_RECORD, marker(6), CONTROL_RECORD]
    consumers["read_committed"].early_ends = [2]
    assert read().committed == 6


def test_a_record_that_is_no_marker_is_an_error(consumers: dict[str, FakeConsumer]) -> None:
    consumers["read_committed"].topic = [b"something"]
    with pytest.raises(DataError, match=r"is not a marker\. Only the relay may write there"):
        read()


def test_an_end_that_is_not_reached_in_time_is_an_error(consumers: dict[str, FakeConsumer]) -> None:
    consumers["read_committed"].hangs = True
    with pytest.raises(KafkaException, match="the end of the topic was not reached"):
        read()


def test_a_client_without_permission_gets_the_real_reason(consumers: dict[str, FakeConsumer]) -> None:
    consumers["read_committed"].is_refused = True
    with pytest.raises(KafkaException) as caught:
        read()
    assert caught.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def test_close_closes_both_consumers(consumers: dict[str, FakeConsumer]) -> None:
    reader = MarkerReader({}, "shop")
    reader.read(1.0)
    reader.close()
    assert all(consumer.is_closed for consumer in consumers.values())
