"""The progress of a relay, for callbacks and metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

RelayState: TypeAlias = Literal["starting", "standing by", "taking over", "leading", "waiting", "stopped"]


@dataclass(frozen=True, slots=True)
class RelayProgress:
    """Hold the progress of a relay of ``source``.

    ``events``: row changes sent to Kafka by this relay. ``lsn``: the highest lsn committed in Kafka.
    ``epoch``: the epoch of its lease, or 0 before it leads for the first time.
    """

    source: str
    state: RelayState = "starting"
    events: int = 0
    lsn: int = 0
    epoch: int = 0


OnProgress: TypeAlias = Callable[[RelayProgress], None]
