"""Plan the faults of a campaign. The plan is a pure function of the seed and of the layout of the servers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

STORM_S = 30.0
"""The faults of a round begin within this time by default."""


@dataclass(frozen=True)
class Layout:
    """Say what runs in a campaign.

    ``replicas``: the engines. ``pair``: processes of each role. ``can_mount``: disks can be full. ``can_fake_clock``:
    the clock of the primary's server can jump.
    """

    brokers: int = 3
    replicas: tuple[str, ...] = ("postgresql", "mysql", "mariadb", "sqlite")
    pair: int = 2
    standby: bool = True
    can_mount: bool = True
    can_fake_clock: bool = True

    @property
    def broker_names(self) -> list[str]:
        return [f"broker-{n}" for n in range(1, self.brokers + 1)]

    @property
    def replica_servers(self) -> list[str]:
        """Return the replicas that are servers. SQLite's is a file."""
        return [f"replica-{engine}" for engine in self.replicas if engine != "sqlite"]

    @property
    def services(self) -> list[str]:
        """Return the names of the supervised processes."""
        numbers = range(1, self.pair + 1)
        workers = [f"worker-{engine}-{n}" for engine in self.replicas for n in numbers]
        return [*(f"relay-{n}" for n in numbers), *workers, *(f"writer-{n}" for n in numbers)]


@dataclass(frozen=True)
class Fault:
    """Describe a fault: it begins ``begin_s`` after the beginning of its round and lasts for ``seconds``.

    ``dice``: a number from 0 to 1, for what else the fault has to choose.
    """

    kind: str
    target: str
    begin_s: float
    seconds: float
    dice: float

    def __str__(self) -> str:
        return f"{self.kind} {self.target} at {self.begin_s:.1f} s for {self.seconds:.1f} s"


@dataclass(frozen=True)
class Round:
    """Hold faults that may overlap, and perhaps an operation, which begins when the replicas are equal again."""

    number: int
    faults: tuple[Fault, ...]
    operation: Fault | None = None


@dataclass(frozen=True)
class _Kind:
    """Describe a kind of fault.

    ``targets``: what the fault can happen to. ``seconds``: the shortest and the longest time. ``part``: faults of one
    part of a target never overlap. ``weight``: how often the kind is chosen.
    """

    targets: Callable[[Layout], Sequence[str]]
    seconds: tuple[float, float]
    part: str = "process"
    weight: float = 1.0


def _databases(layout: Layout) -> list[str]:
    return ["primary", *layout.replica_servers]


def _servers(layout: Layout) -> list[str]:
    return [*layout.broker_names, *_databases(layout)]


def _commands(layout: Layout) -> list[str]:
    return [name for name in layout.services if not name.startswith("writer")]


def _disks(layout: Layout) -> list[str]:
    return ["primary", *(f"replica-{engine}" for engine in layout.replicas)] if layout.can_mount else []


def _whole_cluster(layout: Layout) -> list[str]:
    return ["brokers"] if layout.brokers > 1 else []


KINDS = {
    "kill a process": _Kind(lambda layout: layout.services, (0.0, 0.0), weight=3),
    "suspend a process": _Kind(_commands, (3.0, 15.0), weight=2),
    "kill a server": _Kind(_servers, (0.5, 8.0), weight=3),
    "suspend a server": _Kind(_servers, (3.0, 12.0), weight=2),
    "restart a server in good order": _Kind(_databases, (0.5, 5.0)),
    "restart the brokers one by one": _Kind(_whole_cluster, (0.0, 0.0)),
    "suspend the coordinator": _Kind(_whole_cluster, (5.0, 15.0)),
    "half-open connections": _Kind(_servers, (0.0, 0.0), "network", weight=3),
    "no network": _Kind(_servers, (3.0, 15.0), "network", weight=2),
    "broken connections": _Kind(_servers, (0.0, 0.0), "network"),
    "disk full": _Kind(_disks, (5.0, 15.0), weight=2),
    "read-only database": _Kind(_databases, (4.0, 12.0), "rights", weight=2),
    "locked table": _Kind(lambda layout: [f"replica-{engine}" for engine in layout.replicas], (4.0, 12.0), "rights"),
    "clock of a process jumps": _Kind(_commands, (0.0, 0.0), "clock"),
    "clock of the primary jumps": _Kind(
        lambda layout: ["primary"] if layout.can_fake_clock else [], (0.0, 0.0), "clock"
    ),
    "partitions added": _Kind(lambda layout: ["account", "transfer", "receipt"], (0.0, 0.0), "topics", weight=0.5),
}
OPERATIONS = {
    "failover to a current copy": _Kind(lambda layout: ["primary"] if layout.standby else [], (0.0, 0.0)),
    "failover to a lagging copy": _Kind(lambda layout: ["primary"] if layout.standby else [], (3.0, 6.0)),
    "topic created again": _Kind(lambda layout: ["account", "transfer", "transaction"], (0.0, 0.0)),
}
_OPERATION_EVERY = 5
_MOST_PARTITIONS_ADDED = 12


def rounds(seed: int, layout: Layout, faults_of_a_round: int = 7, storm_s: float = STORM_S) -> Iterator[Round]:
    """Yield rounds without end. ``storm_s``: the faults of a round begin within this time."""
    choose = random.Random(seed)
    kinds = {name: kind for name, kind in KINDS.items() if kind.targets(layout)}
    operations = _in_turn(choose, [name for name, kind in OPERATIONS.items() if kind.targets(layout)])
    partitions_added = number = 0
    while True:
        number += 1
        if partitions_added >= _MOST_PARTITIONS_ADDED:
            kinds.pop("partitions added", None)
        faults = _storm(choose, layout, kinds, faults_of_a_round, storm_s)
        partitions_added += sum(fault.kind == "partitions added" for fault in faults)
        operation = None
        if number % _OPERATION_EVERY == 0 and (name := next(operations, None)):
            operation = _fault(choose, layout, name, OPERATIONS[name], 0.0)
        yield Round(number, tuple(faults), operation)


def _in_turn(choose: random.Random, names: Sequence[str]) -> Iterator[str]:
    """Yield the names in random order, each once before any comes again."""
    while names:
        yield from choose.sample(names, len(names))


def _storm(choose: random.Random, layout: Layout, kinds: dict[str, _Kind], count: int, storm_s: float) -> list[Fault]:
    """Return ``count`` faults in the order of their beginnings. Each server has enough time between two faults."""
    found: list[Fault] = []
    busy: dict[tuple[str, str], list[tuple[float, float]]] = {}
    while len(found) < count:
        name = choose.choices(list(kinds), [kind.weight for kind in kinds.values()])[0]
        kind = kinds[name]
        fault = _fault(choose, layout, name, kind, round(choose.uniform(0, storm_s), 1))
        # A server takes some seconds to start, and its next fault must meet it at work.
        span = (fault.begin_s, fault.begin_s + fault.seconds + 6)
        members = layout.broker_names if fault.target == "brokers" else [fault.target]
        places = [(member, kind.part) for member in members]
        if any(span[0] < end and begin < span[1] for place in places for begin, end in busy.get(place, [])):
            continue
        for place in places:
            busy.setdefault(place, []).append(span)
        found.append(fault)
    return sorted(found, key=lambda fault: fault.begin_s)


def _fault(choose: random.Random, layout: Layout, name: str, kind: _Kind, begin_s: float) -> Fault:
    target = choose.choice(kind.targets(layout))
    return Fault(name, target, begin_s, round(choose.uniform(*kind.seconds), 1), round(choose.random(), 3))
