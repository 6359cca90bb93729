"""The state of a single partition in the reader."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.reading.lsn_order import LsnMemory

# A relay sends at most the claims again that Kafka has not committed. Sixteen bytes are kept for each message.
_REMEMBERED_TRANSACTIONS = 500_000
_REMEMBERED_EVENTS = 10_000

TopicKind = Literal["table", "transaction", "schema"]


@dataclass(slots=True, eq=False)
class PartitionStream:
    """A partition. ``next_offset`` and ``lsn`` count the read messages, applied or not.

    ``target``: the offset to read to before the replica is loaded or ``--once`` is done. ``start``: the first position
    of the reading. ``held``: the events that wait for events of a smaller lsn in another partition of the topic
    (``LsnMerge``). ``late``: the held events with smaller lsns than earlier events, in the order of offsets.
    ``repeated_tombstones``: the offsets of tombstones with a held delete event. ``last_message``: the message read
    last. ``blocks_to_take_singly``: the number of blocks to read message by message, because earlier messages had
    another form than usual. ``limit``: the offset at which reading ends for good. ``memory``: the messages read before.
    ``first_lsn``: events with a smaller lsn are left out.
    """

    partition: Partition
    kind: TopicKind
    next_offset: int
    lsn: int = 0
    transaction: str | None = None
    target: int = 0
    at_end: bool = False
    paused: bool = False
    start: Position = field(default_factory=lambda: Position(0, 0))
    held: list[Change] = field(default_factory=list)
    late: list[Change] = field(default_factory=list)
    repeated_tombstones: set[int] = field(default_factory=set)
    last_message: Any = None
    blocks_to_take_singly: int = 0
    limit: float = math.inf
    first_lsn: int = 0
    memory: LsnMemory = field(init=False)

    def __post_init__(self) -> None:
        size = _REMEMBERED_TRANSACTIONS if self.kind == "transaction" else _REMEMBERED_EVENTS
        self.memory = LsnMemory(self.lsn, size)

    @property
    def position(self) -> Position:
        """Return the position after everything that was read."""
        return Position(self.next_offset, self.lsn)

    @property
    def target_reached(self) -> bool:
        """Return whether everything before ``target`` has been read. Control records at the end have offsets too."""
        return self.next_offset >= min(self.target, self.limit)

    @property
    def is_cut(self) -> bool:
        """Return whether everything before ``limit`` has been read."""
        return self.next_offset >= self.limit

    def where(self, offset: int) -> str:
        """Return topic, partition and offset as a text for messages."""
        return f"topic {self.partition[0]}, partition {self.partition[1]}, offset {offset}"
