"""How far a replica is behind its source: for ``rowcast status``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.consumer import positions
from rowcast.consumer.changes import Partition
from rowcast.consumer.layouts import Layouts
from rowcast.consumer.positions import Position, ReplicaState, State
from rowcast.consumer.topics import READING, TIMEOUT_S, ends, partitions_of, read_shapes
from rowcast.shared.config import Settings
from rowcast.shared.databases import open_engine, unreachable
from rowcast.shared.errors import DataError
from rowcast.shared.events import parse_transaction, transaction_topic
from rowcast.shared.kafka import new_consumer
from rowcast.shared.kafka import unreachable as kafka_unreachable


@dataclass(frozen=True, slots=True)
class TopicLag:
    """``records``: messages of the topic that have not been applied."""

    topic: str
    records: int


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """``state`` is None if no worker has ever run. ``behind_ms``: the age of the first transaction that has not been
    applied, 0 if there is none. ``owner``: the worker that was active last."""

    replica: str
    state: State | None
    owner: str | None = None
    lsn: int = 0
    tx: str | None = None
    applied_ts_ms: int = 0
    behind_ms: int = 0
    topics: tuple[TopicLag, ...] = ()

    @property
    def records(self) -> int:
        """Messages of all topics that have not been applied."""
        return sum(topic.records for topic in self.topics)


def replica_status(settings: Settings, name: str) -> ReplicaStatus:
    """Reads the replica's position and the topics' ends.

    Raises ConfigurationError if there is no such replica, UnreachableError if its database or Kafka does not answer.
    """
    state, reached = _read(settings, name)
    if state is None:
        return ReplicaStatus(name, None)
    lags, behind_ms = _lags(settings, name, reached)
    return ReplicaStatus(name, state.state, state.owner, state.lsn, state.tx, state.ts_ms, behind_ms, lags)


def _read(settings: Settings, name: str) -> tuple[ReplicaState | None, dict[Partition, Position]]:
    what = f"replica {name!r}"
    engine = open_engine(settings.replica(name).sqlalchemy_url, what, pooled=False)
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table(positions.REPLICA.name):
                return None, {}
            state = positions.read_state(connection, settings.source)
            return state, positions.read_positions(connection, settings.source)
    except exc.DBAPIError as error:
        raise unreachable(engine, what, error) from error


# Up to so many offsets behind, records are counted one by one.
_COUNTED = 100


def _lags(settings: Settings, name: str, reached: Mapping[Partition, Position]) -> tuple[tuple[TopicLag, ...], int]:
    from confluent_kafka import KafkaException

    layouts = Layouts(settings.replica(name).tables)
    read_shapes(settings, layouts)
    marks = transaction_topic(settings.source)
    topics = {marks, *(settings.topic_of(shape.schema, shape.name) for shape in layouts.shapes())}
    consumer = new_consumer(settings.require_kafka(), "worker", {**READING, "group.id": "rowcast"})
    records = dict.fromkeys(sorted(topics), 0)
    try:
        for topic, numbers in partitions_of(consumer, topics).items():
            for partition in ((topic, number) for number in (numbers if topic != marks else [0])):
                low, high = ends(consumer, partition)
                begin = max(low, reached[partition].next_offset) if partition in reached else low
                records[topic] += max(0, high - begin)
        behind_ms = _age_of_next(consumer, marks, reached.get((marks, 0), Position(0, 0))) if records[marks] else 0
    except KafkaException as error:
        raise kafka_unreachable(settings.kafka, error) from error
    finally:
        consumer.close()
    return tuple(TopicLag(topic, count) for topic, count in records.items()), behind_ms


def _age_of_next(consumer: Any, topic: str, position: Position) -> int:
    """Milliseconds since the first transaction that is not applied; 0 if all that follows has been applied before."""
    from confluent_kafka import TopicPartition

    low, _ = ends(consumer, (topic, 0))
    consumer.assign([TopicPartition(topic, 0, max(low, position.next_offset))])
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        message = consumer.poll(TIMEOUT_S)
        if message is None or message.error() is not None:
            return 0
        try:
            event = parse_transaction(message.value() or b"")
        except DataError:
            return 0
        if event.lsn > position.lsn:
            return max(0, int(time.time() * 1000) - event.ts_ms)
    return 0
