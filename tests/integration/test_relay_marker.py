"""How far Kafka has committed, told by Kafka itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from confluent_kafka import Producer

from rowcast.producer.relay.marker import MarkerReader, Markers, marker_message
from rowcast.producer.relay.topics import Topics
from rowcast.shared.config import TopicSettings
from rowcast.shared.errors import DataError
from servers import Broker


@dataclass
class Marking:
    """A source's marker, written in Kafka transactions of its own."""

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


def test_before_anything_is_committed_there_is_none(marking: Marking) -> None:
    assert marking.read() == (None, None)
    marking.abort(5)
    assert marking.read() == (None, 5)


def test_the_last_that_was_committed_counts_and_no_aborted_one(marking: Marking) -> None:
    marking.commit(7)
    marking.commit(12)
    marking.abort(99)
    assert marking.read() == (12, 99)


def test_what_a_fenced_producer_left_open_does_not_count(marking: Marking) -> None:
    marking.commit(7)
    marking.write(12, lambda producer: None)
    marking.new_producer()
    assert marking.read() == (7, 12)


def test_it_is_found_behind_any_number_of_aborted_ones(marking: Marking) -> None:
    marking.commit(7)
    for n in range(80):
        marking.abort(100 + n)
    assert marking.read() == (7, 179)


def test_something_else_in_its_topic_is_refused(marking: Marking) -> None:
    topic, _, key, partition = marker_message(marking.source, 1)
    marking.producer.begin_transaction()
    marking.producer.produce(topic, b"garbage", key, partition)
    marking.producer.commit_transaction(30)
    with pytest.raises(DataError, match=rf"the topic {topic} ends with b'garbage', which is no marker"):
        marking.read()
