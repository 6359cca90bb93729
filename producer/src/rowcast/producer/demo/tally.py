"""The figures of a run, and the promises that the run keeps or breaks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["open", "kept", "broken"]


@dataclass(slots=True)
class Promise:
    """Hold one promise. ``title``: the event in few words. ``result``: the figures of the result."""

    title: str
    verdict: Verdict = "open"
    result: str = ""

    def settle(self, result: str, *, kept: bool) -> None:
        """Record whether the promise was kept, and the figures as evidence."""
        self.result = result
        self.verdict = "kept" if kept else "broken"


@dataclass(slots=True)
class Promises:
    """Hold all promises of the demo, in the order of the run."""

    killed: Promise = field(default_factory=lambda: Promise("worker killed"))
    repaired: Promise = field(default_factory=lambda: Promise("rows changed"))
    rebuilt: Promise = field(default_factory=lambda: Promise("replica deleted"))
    bank: Promise = field(default_factory=lambda: Promise("replica read"))
    equal: Promise = field(default_factory=lambda: Promise("shop closed"))

    def all(self) -> tuple[Promise, ...]:
        """Return the promises in the order of the run."""
        return self.killed, self.repaired, self.rebuilt, self.bank, self.equal

    @property
    def are_kept(self) -> bool:
        """Return whether every promise was kept. An untried promise was not kept."""
        return all(promise.verdict == "kept" for promise in self.all())


@dataclass(slots=True)
class Tally:
    """Hold the figures of a run.

    ``lag``: records in Kafka missing in the replica. ``reads``: reads of ``BankWatch``. ``repaired``: rows and deletes
    sent by the repair.
    """

    planned_s: float
    traded_s: float = 0.0
    transactions: int = 0
    rows: int = 0
    published: int = 0
    lag: int = 0
    behind_ms: int = 0
    reads: int = 0
    repaired: int = 0
    phase: str = "starting"
    started: float = field(default_factory=time.monotonic)
    promises: Promises = field(default_factory=Promises)

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started
