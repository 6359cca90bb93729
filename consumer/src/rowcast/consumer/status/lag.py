"""Measure the lag and the state of a replica."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.consumer.debezium.topics import find_topics
from rowcast.consumer.events.position import Partition, Position, ReplicaState, are_of_applied_events
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.topic_metadata import new_asker, partition_ends, partitions_of, read_shapes
from rowcast.consumer.reading.unapplied import Rest, commit_times
from rowcast.consumer.replica import positions
from rowcast.consumer.replica.letter_rows import NO_LETTERS, LetterCounts, count_letters
from rowcast.consumer.replica.positions import GROUP_OWNER, ReplicaRow, Verified
from rowcast.consumer.replica.worker_tables import ROWCAST_REPLICA
from rowcast.consumer.status.workers import group_members
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, unreachable
from rowcast.shared.kafka.clients import unreachable as kafka_unreachable
from rowcast.shared.kafka.topic_names import transaction_topic
from rowcast.shared.tables.outbox_age import oldest_in_outbox_ms


@dataclass(frozen=True, slots=True)
class TopicLag:
    """The number of unapplied records in a topic."""

    topic: str
    records: int


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The state and the lag of a replica.

    ``state`` is None if no worker has ever run. ``owner``: the last active worker, or a group of workers. ``lsn``,
    ``tx`` and ``applied_ts_ms``: the transaction applied last, with the primary's time in milliseconds since 1970.
    ``behind_ms``: the age of the oldest commit that is not visible in the replica, at least 1 if a commit is not
    visible, else 0. ``outbox_read``: whether ``behind_ms`` includes the commits in the primary's outbox. ``reason``:
    why the replica is stopped or suspect, since ``since_ms`` (milliseconds since 1970). ``workers``: the number of
    running workers, or None if Kafka does not show them, on ``worker_hosts``. ``worker_partitions``: the partitions of
    each worker, as ``topic:number``, if the workers share the partitions. ``epoch``: the number of takeovers.
    ``next_offsets``: the sum of the positions in all partitions, and the difference of two readings is the number of
    applied records. ``verified``: the last comparison with the primary, or None. ``letters``: what waits in the dead
    letter topic.
    """

    replica: str
    state: ReplicaState | None
    owner: str | None = None
    lsn: int = 0
    tx: str | None = None
    applied_ts_ms: int = 0
    behind_ms: int = 0
    topics: tuple[TopicLag, ...] = ()
    reason: str | None = None
    since_ms: int = 0
    outbox_read: bool = False
    workers: int | None = None
    worker_hosts: tuple[str, ...] = ()
    worker_partitions: tuple[tuple[str, ...], ...] = ()
    epoch: int = 0
    next_offsets: int = 0
    verified: Verified | None = None
    letters: LetterCounts = NO_LETTERS

    @property
    def records(self) -> int:
        """Return the number of unapplied records in all topics."""
        return sum(topic.records for topic in self.topics)


def replica_status(settings: Settings, name: str) -> ReplicaStatus:
    """Read the replica's row and positions, the topics' ends, and the primary's outbox if the configuration has one.

    Raise ConfigurationError if the configuration has no such replica. Raise UnreachableError if the replica's database
    or Kafka does not answer.
    """
    row, applied, letters = _read(settings, name)
    if row is None:
        return ReplicaStatus(name, None)
    lags, oldest_ms = _lags(settings, name, applied)
    records = sum(lag.records for lag in lags)
    behind_ms = max(1, time.time_ns() // 1_000_000 - oldest_ms) if records else 0
    waiting_ms = outbox_ms(settings)
    members = group_members(settings, name)
    is_group = row.owner == GROUP_OWNER
    # The workers of a group write no common lsn, because they would wait for each other.
    lsn = max((row.lsn, *(position.lsn for position in applied.values()))) if is_group else row.lsn
    return ReplicaStatus(
        name,
        shown_state(row, applied),
        row.owner,
        lsn,
        row.tx,
        row.ts_ms,
        max(behind_ms, waiting_ms or 0),
        lags,
        row.reason,
        row.since_ms,
        waiting_ms is not None,
        None if members is None else len(members),
        tuple(member.host for member in members or ()),
        tuple(member.partitions for member in members or ()) if is_group else (),
        row.epoch,
        sum(position.next_offset for position in applied.values()),
        row.verified,
        letters,
    )


def shown_state(row: ReplicaRow, applied: Mapping[Partition, Position]) -> ReplicaState:
    """Return the state to show, from the replica's row and positions."""
    if row.state in ("suspect", "promoting", "promoted"):
        return row.state
    if row.reason is not None:
        return "stopped"
    if row.lsn or are_of_applied_events(applied.values()):
        return row.state
    return "waiting"


def letters_of(settings: Settings, name: str) -> LetterCounts:
    """Return how much waits in the dead letter topic of a replica. Raise UnreachableError."""
    return _read(settings, name)[2]


def _read(settings: Settings, name: str) -> tuple[ReplicaRow | None, dict[Partition, Position], LetterCounts]:
    label = f"replica {name!r}"
    engine = open_engine(settings.replica(name).sqlalchemy_url, label, pooled=False)
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table(ROWCAST_REPLICA.name):
                return None, {}, NO_LETTERS
            row = positions.read_row(connection, settings.source)
            letters = count_letters(connection, settings.source)
            return row, positions.read_positions(connection, settings.source), letters
    except exc.DBAPIError as error:
        raise unreachable(engine, label, error) from error


def _lags(settings: Settings, name: str, applied: Mapping[Partition, Position]) -> tuple[tuple[TopicLag, ...], int]:
    """Return the lag of each topic, and the time of the oldest unapplied commit."""
    from confluent_kafka import KafkaException

    transactions = transaction_topic(settings.source)
    with new_asker(settings) as asker:
        try:
            topics, found = _topics(asker, settings, name)
            records = dict.fromkeys(sorted(topics), 0)
            partitions = [(t, n) for t, numbers in found.items() for n in (numbers if t != transactions else [0])]
            rests = {}
            for partition, (first, end) in partition_ends(asker, partitions).items():
                position = applied.get(partition, Position(0, 0))
                # Debezium's lsns do not grow from event to event, so they say nothing of a message.
                lsn = 0 if settings.format == "debezium" else position.lsn
                rests[partition] = Rest(max(first, position.next_offset), end, lsn)
            times = commit_times(asker, rests, transactions)
        except KafkaException as error:
            raise kafka_unreachable(settings.kafka, error) from error
    for partition, rest in rests.items():
        if times.get(partition, 0) is not None:
            records[partition[0]] += max(0, rest.end - rest.next_offset)
    known = [ts_ms for ts_ms in times.values() if ts_ms is not None]
    oldest_ms = min(known, default=time.time_ns() // 1_000_000)
    return tuple(TopicLag(topic, count) for topic, count in records.items()), oldest_ms


def _topics(asker: Any, settings: Settings, name: str) -> tuple[set[str], dict[str, list[int]]]:
    """Return the topics of the replica, and the partitions of the existing topics."""
    layouts = RowLayouts(settings.replica(name).tables)
    transactions = transaction_topic(settings.source)
    if settings.format == "debezium":
        found = find_topics(asker, settings, layouts)
        if settings.replica(name).consistency == "row":
            found.pop(transactions, None)
        return set(found), found
    read_shapes(asker, settings, layouts, lenient=True)
    topics = {settings.topic_of(shape.schema, shape.name) for shape in layouts.latest_shapes()}
    if settings.replica(name).consistency == "transaction":
        topics.add(transactions)
    return topics, partitions_of(asker, topics)


def outbox_ms(settings: Settings) -> int | None:
    """Return the age of the oldest commit in the primary's outbox, or None if the outbox cannot be read."""
    if settings.primary is None:
        return None
    url = settings.primary.sqlalchemy_url
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        # A connection would create the file.
        return None
    engine = open_engine(url, "primary", pooled=False)
    try:
        return oldest_in_outbox_ms(engine)
    finally:
        engine.dispose()
