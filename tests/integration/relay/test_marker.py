"""Write and find the markers of a source in a real Kafka."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from confluent_kafka import Producer

from rowcast.producer.relay.kafka.marker import MarkerReader, Markers, marker_message
from rowcast.producer.relay.kafka.topics import Topics
from rowcast.shared.config.topic_settings import TopicSettings
from rowcast.shared.errors import DataError
from servers import Broker


@dataclass
class Marking:
    """Write markers of a source, in separate Kafka transactions."""

    source: str
    properties: dict[str, str]

    def __post_init__(self) -> None:
        Topics(self.properties, self.source, TopicSettings()).ensure_own((), lambda: None)
        self.producer = self.new_producer()

    def new_producer(self) -> Producer:
        producer = Producer({**self.properties, "transactional.id": self.source, "linger.ms": 0})
        producer.init_transactions(30)
        return producer

    def write(self, lsn: int, end: Callable[[Producer], object]) -> None:
        self.producer.begin_transaction()
        self.producer.produce(*marker_message(self.source, lsn))
        self.producer.flush(30)
        end(self.producer)

    def commit(self, lsn: int) -> None:
        self.write(lsn, lambda producer: producer.commit_transaction(30))

    def abort(self, lsn: int) -> None:
        self.write(lsn, lambda producer: producer.abort_transaction(30))

    def read(self) -> Markers:
        reader = MarkerReader(self.properties, self.source)
        try:
            return reader.read(30)
        finally:
            reader.close()


@pytest.fixture
def marking(kafka: Broker, source_name: str) -> Marking:
    return Marking(source_name, {"bootstrap.servers": kafka.bootstrap_servers})


def test_without_a_commit_there_is_no_committed_marker(marking: Marking) -> None:
    assert marking.read() == Markers(None, None)
    marking.abort(5)
    assert marking.read() == Markers(None, 5)


def test_the_last_committed_marker_counts_and_no_aborted_marker(marking: Marking) -> None:
    marking.commit(7)
    marking.commit(12)
    marking.abort(99)
    assert marking.read() == Markers(12, 99)


def test_the_open_marker_of_a_fenced_producer_is_not_committed(marking: Marking) -> None:
    marking.commit(7)
    marking.write(12, lambda producer: None)
    marking.new_producer()
    assert marking.read() == Markers(7, 12)


def test_the_marker_is_found_behind_many_aborted_markers(marking: Marking) -> None:
    marking.commit(7)
    # Each adds its marker and the control record of its end, so that they are more records than the first read.
    for n in range(40):
        marking.abort(100 + n)
    assert marking.read() == Markers(7, 139)


def test_a_record_that_is_not_a_marker_is_refused(marking: Marking) -> None:
    topic, _, key, partition, *_ = marker_message(marking.source, 1)
    marking.producer.begin_transaction()
    marking.producer.produce(topic, b"garbage", key, partition)
    marking.producer.commit_transaction(30)
    with pytest.raises(DataError, match=rf"the last record of the topic {topic} is not a marker\. Only"):
        marking.read()
