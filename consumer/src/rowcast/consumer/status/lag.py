"""How far a replica is behind its source."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.consumer.events.position import Partition, Position, ReplicaState
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.topic_metadata import (
    KAFKA_TIMEOUT_S,
    new_asker,
    partition_ends,
    partitions_of,
    read_shapes,
)
from rowcast.consumer.replica import positions
from rowcast.consumer.replica.positions import ReplicaRow
from rowcast.consumer.replica.worker_tables import ROWCAST_REPLICA
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, unreachable
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.clients import unreachable as kafka_unreachable
from rowcast.shared.kafka.messages import parse_transaction, transaction_topic


@dataclass(frozen=True, slots=True)
class TopicLag:
    """The number of unapplied records in a topic."""

    topic: str
    records: int


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The state and the lag of a replica.

    ``state`` is None if no worker has ever run. ``owner``: the last active worker. ``lsn``, ``tx`` and
    ``applied_ts_ms``: the transaction applied last, with the primary's time in milliseconds since 1970. ``behind_ms``:
    the age of the first unapplied transaction, or 0.
    """

    replica: str
    state: ReplicaState | None
    owner: str | None = None
    lsn: int = 0
    tx: str | None = None
    applied_ts_ms: int = 0
    behind_ms: int = 0
    topics: tuple[TopicLag, ...] = ()

    @property
    def records(self) -> int:
        """Return the number of unapplied records in all topics."""
        return sum(topic.records for topic in self.topics)


def replica_status(settings: Settings, name: str) -> ReplicaStatus:
    """Read the replica's positions and the topics' ends.

    Raise ConfigurationError if the configuration has no such replica. Raise UnreachableError if its database or Kafka
    does not answer.
    """
    row, applied = _read(settings, name)
    if row is None:
        return ReplicaStatus(name, None)
    lags, behind_ms = _lags(settings, name, applied)
    return ReplicaStatus(name, row.state, row.owner, row.lsn, row.tx, row.ts_ms, behind_ms, lags)


def _read(settings: Settings, name: str) -> tuple[ReplicaRow | None, dict[Partition, Position]]:
    label = f"replica {name!r}"
    engine = open_engine(settings.replica(name).sqlalchemy_url, label, pooled=False)
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table(ROWCAST_REPLICA.name):
                return None, {}
            row = positions.read_row(connection, settings.source)
            return row, positions.read_positions(connection, settings.source)
    except exc.DBAPIError as error:
        raise unreachable(engine, label, error) from error


def _lags(settings: Settings, name: str, applied: Mapping[Partition, Position]) -> tuple[tuple[TopicLag, ...], int]:
    """Return the lag of each topic, and the age of the first unapplied transaction."""
    from confluent_kafka import KafkaException

    layouts = RowLayouts(settings.replica(name).tables)
    transactions = transaction_topic(settings.source)
    with new_asker(settings) as asker:
        read_shapes(asker, settings, layouts)
        topics = {transactions, *(settings.topic_of(shape.schema, shape.name) for shape in layouts.latest_shapes())}
        records = dict.fromkeys(sorted(topics), 0)
        behind_ms = 0
        try:
            found = partitions_of(asker, topics)
            partitions = [(t, n) for t, numbers in found.items() for n in (numbers if t != transactions else [0])]
            for partition, (first, end) in partition_ends(asker, partitions).items():
                position = applied.get(partition, Position(0, 0))
                next_offset = max(first, position.next_offset)
                topic, _ = partition
                records[topic] += max(0, end - next_offset)
                if topic == transactions and next_offset < end:
                    behind_ms = _age_of_next(asker, partition, next_offset, position.lsn)
        except KafkaException as error:
            raise kafka_unreachable(settings.kafka, error) from error
    return tuple(TopicLag(topic, count) for topic, count in records.items()), behind_ms


def _age_of_next(asker: Any, partition: Partition, next_offset: int, applied_lsn: int) -> int:
    """Return the milliseconds since the first unapplied transaction, or 0."""
    from confluent_kafka import TopicPartition

    asker.incremental_assign([TopicPartition(*partition, next_offset)])
    deadline = time.monotonic() + KAFKA_TIMEOUT_S
    while time.monotonic() < deadline:
        message = asker.poll(KAFKA_TIMEOUT_S)
        if message is None or message.error() is not None:
            return 0
        try:
            event = parse_transaction(message.value() or b"")
        except DataError:
            return 0
        if event.lsn > applied_lsn:
            return max(0, int(time.time() * 1000) - event.ts_ms)
    return 0
