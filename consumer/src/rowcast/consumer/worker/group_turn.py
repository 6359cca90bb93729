"""A turn of a worker in a group: the work on the partitions given by the group, until the partitions change."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.share import Share, is_divisible
from rowcast.consumer.reading.skips import Skips
from rowcast.consumer.reading.topic_metadata import (
    new_asker,
    new_reader,
    partition_ends,
    partitions_of,
    read_shapes,
)
from rowcast.consumer.replica.claim import Claim
from rowcast.consumer.replica.group_replica import GroupReplica
from rowcast.consumer.replica.positions import ReplicaRow
from rowcast.consumer.worker.group_membership import GroupMembership
from rowcast.consumer.worker.patience import Patience
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError, RetriableError

_log = logging.getLogger("rowcast.worker")

_LOOK_S = 1.0
_CLAIM_POLL_S = 0.1


class GroupTurn:
    """Hold the partitions of one turn. The membership outlives the turn.

    The claim to the replica is held for moments only: to join, and to change tables. A worker of whole transactions, a
    rebuild or a promotion holds the claim for longer, and the group waits meanwhile.
    """

    lost_text = "the group has given this worker other partitions"
    idle_text = "the group has no partition for this worker, or the replica is not free: standing by"

    def __init__(
        self,
        settings: Settings,
        layouts: RowLayouts,
        skips: Skips,
        membership: GroupMembership,
        replica: GroupReplica,
        patience: Patience,
    ) -> None:
        self._settings = settings
        self._layouts = layouts
        self._skips = skips
        self._membership = membership
        self._replica = replica
        self._patience = patience
        self._claim: Claim | None = None
        self._next_look = 0.0
        self.share: Share | None = None
        """The partitions of the turn, once it has begun."""
        replica.alone = self._alone

    def take(self) -> bool:
        """Join the group in the replica. Return False while there is no partition, or the replica is not free."""
        self._membership.poll()
        self._look_for_topics()
        partitions = frozenset(self._membership.partitions)
        if not partitions or not self._take_claim():
            return False
        try:
            self._join(partitions)
        finally:
            self._release()
        _log.info("this worker reads %s", _named(partitions))
        return True

    def _look_for_topics(self) -> None:
        """Follow the topics of all tables. The layouts have the tables that a reader has met."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_S
        if self.share is None:
            with new_asker(self._settings) as asker:
                read_shapes(asker, self._settings, self._layouts, self._skips)
        topics = {self._topic_of(shape.full_name) for shape in self._layouts.latest_shapes()}
        renamed = {self._topic_of(name) for name in self._layouts.renamed.values()}
        unknown = renamed - self._membership.topics
        self._membership.follow(topics - {topic for topic in unknown if self._is_empty(topic)})

    def _is_empty(self, topic: str) -> bool:
        """Return whether Kafka has committed no event of a topic.

        The present topic of a renamed table is followed from its first event on, because all events under the former
        name are then in Kafka too.
        """
        with new_reader(self._settings, committed=True) as consumer:
            partitions = [(topic, number) for number in partitions_of(consumer, [topic]).get(topic, ())]
            return not any(end for _, end in partition_ends(consumer, partitions).values())

    def _topic_of(self, table: str) -> str:
        schema, _, name = table.partition(".")
        return self._settings.topic_of(schema, name)

    def _join(self, partitions: frozenset[Partition]) -> None:
        counts = self._membership.partition_counts()
        self._replica.partitions = partitions
        self._replica.join(counts)
        self._require_exact_keys(counts)
        self._require_applied_renamings(counts)
        divided = {topic: count for topic, count in counts.items() if count > 1}
        self.share = Share(partitions, divided, follows=True, counts=counts, known_ms=self._replica.known_ms)

    def _require_exact_keys(self, counts: Mapping[str, int]) -> None:
        """Raise DataError for a topic with several partitions if two keys could be one row on the replica."""
        for shape in self._layouts.latest_shapes():
            count = counts.get(self._settings.topic_of(shape.schema, shape.name), 0)
            if count > 1 and not is_divisible(shape):
                raise DataError(
                    f"the topic of table {shape.full_name} has {count} partitions, and its primary key has other "
                    "columns than integers, dates and UUIDs of PostgreSQL. Two keys may then be the same row on the "
                    "replica, and the order of their events is lost. Leave the table out with `tables`, give the "
                    f'topic one partition ([topics.tables."{shape.full_name}"] partitions = 1, before the relay '
                    'creates the topic), or use consistency = "transaction".'
                )

    def _require_applied_renamings(self, counts: Mapping[str, int]) -> None:
        """Raise DataError while the topic of a renamed table's former name has unapplied events.

        The events of both topics change common rows, and only a reader of both topics knows the order.
        """
        for former, name in self._layouts.renamed.items():
            topic = self._topic_of(former)
            partitions = [(topic, number) for number in range(counts.get(topic, 0))]
            with new_asker(self._settings) as asker:
                ends = {place: end for place, (_, end) in partition_ends(asker, partitions).items()}
            if not self._replica.has_reached(ends):
                raise DataError(
                    f"table {former} was renamed to {name}, and changes under the former name are not applied yet. "
                    "Their order among the later changes would be lost. Run one worker with "
                    'consistency = "transaction" until the replica is consistent, then the workers of rows again.'
                )

    def take_over(self) -> tuple[ReplicaRow, Mapping[Partition, Position]]:
        """Read the replica's row and positions. Raise FencedError if the replica is not the group's any more."""
        return self._replica.take_over()

    def is_active(self) -> bool:
        """Return whether the worker still has the partitions of the turn."""
        self._membership.poll()
        self._look_for_topics()
        return self.share is not None and self.share.partitions == self._membership.partitions

    def commit_offsets(self, positions: Mapping[Partition, Position]) -> None:
        """Commit offsets for lag monitors."""
        held = self._membership.partitions
        self._membership.commit_offsets({one: position for one, position in positions.items() if one in held})

    def close(self) -> None:
        """End the turn."""
        self._replica.close()
        self._release()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the claim during the block, so that only this worker changes tables. Raise FencedError."""
        if self._claim is not None:
            yield
            return
        while not self._take_claim():
            self._membership.poll()
            # Another owner of the replica holds the claim for long.
            self._replica.compare()
            if self._patience.pause(_CLAIM_POLL_S):
                raise RetriableError("stopped while another worker changes tables")
        try:
            yield
        finally:
            self._release()

    def _take_claim(self) -> bool:
        claim = self._replica.new_claim(lambda: True)
        if not self._replica.take_for_a_moment(claim):
            claim.release()
            return False
        self._claim = claim
        return True

    def _release(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.release()


def _named(partitions: frozenset[Partition]) -> str:
    numbers: dict[str, list[int]] = {}
    for topic, number in sorted(partitions):
        numbers.setdefault(topic, []).append(number)
    return ", ".join(f"{topic} [{', '.join(map(str, of_topic))}]" for topic, of_topic in numbers.items())
