"""How far a relay is, for those who watch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

RelayState: TypeAlias = Literal["starting", "standing by", "taking over", "leading", "waiting", "stopped"]


@dataclass(frozen=True, slots=True)
class RelayProgress:
    """``source``: whose; ``events``: changes handed to Kafka by this relay; ``lsn``: the highest that Kafka has
    committed."""

    source: str
    state: RelayState = "starting"
    events: int = 0
    lsn: int = 0
    epoch: int = 0


OnProgress: TypeAlias = Callable[[RelayProgress], None]
