"""Read the replicas all the time, and note each read that a consistent replica must not allow."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import sqlalchemy as sa

from chaos import bank
from chaos.databases import Database

_PAUSE_S = 0.25
_STATE = sa.text("SELECT state, reason FROM rowcast_replica WHERE source = :source")


@dataclass(frozen=True)
class Violation:
    """Describe what contradicts the promise of rowcast. ``at``: seconds since 1970."""

    at: float
    where: str
    what: str

    def __str__(self) -> str:
        return f"{time.strftime('%H:%M:%S', time.localtime(self.at))} {self.where}: {self.what}"


@dataclass(frozen=True)
class ReplicaState:
    """Hold what a replica says of itself. ``state`` is None before a worker has written one."""

    state: str | None
    reason: str | None


def state_of(connection: sa.Connection) -> ReplicaState:
    if not connection.dialect.has_table(connection, "rowcast_replica"):
        return ReplicaState(None, None)
    row = connection.execute(_STATE, {"source": bank.SOURCE}).one_or_none()
    return ReplicaState(row.state, row.reason) if row is not None else ReplicaState(None, None)


@dataclass
class Observer:
    """Read one replica in a thread of its own.

    ``reads``: the number of reads by the state that the replica named. ``failed``: reads that met a fault.
    """

    name: str
    database: Database
    reads: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    violations: list[Violation] = field(default_factory=list)
    _last: dict[int, int] = field(default_factory=dict)
    _is_open: bool = False
    """Whether a consistent replica has had the bank. Before, it may be empty, as the primary was at first."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"observer of {self.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Read once, and check what a consistent replica promises."""
        with self.database.snapshot() as connection:
            state = state_of(connection).state
            reading = bank.read(connection) if state == "consistent" else None
        self.reads[state or "none"] += 1
        if reading is None:
            # The replica may be rebuilt from here on, and then have fewer transfers.
            self._last = {}
            return
        self._is_open |= not reading.is_empty
        if not self._is_open:
            return
        for wrong in reading.wrong:
            self._note(f"consistent, but {wrong}")
        for writer, number in self._last.items():
            if reading.last.get(writer, 0) < number:
                self._note(f"went back from transfer {number} of writer {writer} to {reading.last.get(writer, 0)}")
        self._last = dict(reading.last)

    def _note(self, what: str) -> None:
        self.violations.append(violation := Violation(time.time(), self.name, what))
        print(f"VIOLATION {violation}", flush=True)

    def _run(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            try:
                self.look()
            except sa.exc.DBAPIError:
                self.failed += 1
