"""One partition as the reader follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rowcast.consumer.changes import Partition
from rowcast.consumer.positions import Position

Kind = Literal["table", "transaction", "schema"]


@dataclass(slots=True, eq=False)
class Stream:
    """``next_offset`` and ``lsn`` are of what was read, applied or not. ``target``: the offset up to which it must be
    read before the replica is loaded, or ``--once`` is done."""

    partition: Partition
    kind: Kind
    next_offset: int
    lsn: int = 0
    transaction: str | None = None
    target: int = 0
    at_end: bool = False
    paused: bool = False

    @property
    def position(self) -> Position:
        return Position(self.next_offset, self.lsn)

    @property
    def reached(self) -> bool:
        """Whether everything before ``target`` has been read; control records at the end have offsets too."""
        return self.next_offset >= self.target

    def where(self, offset: int) -> str:
        """For messages."""
        return f"topic {self.partition[0]}, partition {self.partition[1]}, offset {offset}"
