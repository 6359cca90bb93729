"""The schema topic is read to its end, and requests are repeated after transient errors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading import topic_metadata
from rowcast.consumer.reading.topic_metadata import add_shape, partition_ends, read_shapes
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError, UnreachableError
from support.kafka_source import column, shape
from support.memory_consumer import MemoryBroker, MemoryConsumer
from support.memory_topics import MemorySource

A = shape("a", column("n"))
SETTINGS = Settings(source="shop", kafka={"bootstrap.servers": "memory"})


@pytest.fixture
def source() -> MemorySource:
    return MemorySource()


def read(source: MemorySource, layouts: RowLayouts) -> MemoryConsumer:
    consumer = MemoryBroker(source).new_consumer({}, "worker", {})
    read_shapes(consumer, SETTINGS, layouts)
    return consumer


def test_shapes_are_read_in_order(source: MemorySource) -> None:
    newer = shape("a", column("n"), column("m"))
    source.add(A, newer, shape("b"))
    layouts = RowLayouts(["public.a"])
    consumer = read(source, layouts)
    assert layouts.latest_shapes() == [newer]
    assert layouts.find("public.a", A.version) is not None
    assert consumer.consume(1, 0) == [], "the consumer still follows the schema topic"


def test_a_source_without_a_schema_topic_has_no_shapes(source: MemorySource) -> None:
    layouts = RowLayouts()
    read(source, layouts)
    assert layouts.latest_shapes() == []


def test_a_message_that_is_not_a_shape_is_named_by_its_offset(source: MemorySource) -> None:
    source.add(A)
    source.send("shop.schema", b"{}", b"", 0)
    with pytest.raises(DataError, match=r"topic shop\.schema, partition 0, offset 1: "):
        read(source, RowLayouts())


def test_a_shape_without_a_version_has_the_version_of_its_content() -> None:
    layouts = RowLayouts()
    assert add_shape(A.to_json(), layouts, 0)
    assert not add_shape(orjson.dumps(orjson.loads(A.to_json()) | {"version": A.version}), layouts, 0)
    assert layouts.find("public.a", A.version) is not None


class Answers:
    """Stand in for a consumer that raises an error, or gives it for the partition, before it answers."""

    brokers = "here:9092"

    def __init__(self, *errors: int, of_partition: bool = False) -> None:
        self.errors = list(errors)
        self.of_partition = of_partition

    def offsets_for_times(self, asked: list[TopicPartition], timeout: float) -> list[Any]:
        (at,) = asked
        error = KafkaError(self.errors.pop(0)) if self.errors else None
        if error is not None and not self.of_partition:
            raise KafkaException(error)
        offset = {-2: 3, -1: 5}[at.offset]
        return [SimpleNamespace(topic=at.topic, partition=at.partition, offset=offset, error=error)]


ANSWERS_TO = pytest.mark.parametrize("of_partition", [False, True], ids=["the request", "the partition"])


@ANSWERS_TO
def test_a_transient_answer_is_asked_again(of_partition: bool) -> None:
    answers = Answers(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._TRANSPORT, of_partition=of_partition)
    assert partition_ends(answers, [("t", 0)]) == {("t", 0): (3, 5)}
    assert answers.errors == []


@ANSWERS_TO
def test_a_lasting_answer_and_one_that_lasts_too_long_are_errors(
    of_partition: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnreachableError):
        partition_ends(Answers(KafkaError.TOPIC_AUTHORIZATION_FAILED, of_partition=of_partition), [("t", 0)])
    monkeypatch.setattr(topic_metadata, "KAFKA_TIMEOUT_S", -1)
    with pytest.raises(UnreachableError, match="cannot reach Kafka at here:9092: "):
        partition_ends(Answers(KafkaError._TRANSPORT, of_partition=of_partition), [("t", 0)])
