"""Run the rounds of a plan, and check after each that all replicas are equal to the primary again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from chaos import bank
from chaos.cluster import Cluster
from chaos.faults import NotInjectedError, inject, start_again
from chaos.observer import Observer, ReplicaState, Violation, state_of
from chaos.operations import Operator
from chaos.plan import STORM_S, Fault, Round, rounds
from support.pipeline.pipeline import NotInTimeError

RECOVERY_S = 180.0
"""After the last fault of a round, all replicas must be equal to the primary within this time."""
_LOOK_S = 0.3
_LOGGED_BUGS = ("Exception in thread", "this is a bug in rowcast")

Rows = dict[str, list[tuple[object, ...]]]


@dataclass
class Outcome:
    """Collect what a campaign has done and found."""

    seed: int
    began: float = field(default_factory=time.time)
    ended: float = 0.0
    rounds: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    """Faults that met nothing to harm."""
    reads: Counter[str] = field(default_factory=Counter)
    failed_reads: int = 0
    exits: Counter[str] = field(default_factory=Counter)
    """Processes that ended by themselves, by program and exit code."""
    recoveries: list[float] = field(default_factory=list)
    """Seconds from the end of each round's faults until all replicas were equal."""
    transfers: int = 0
    violations: list[Violation] = field(default_factory=list)


class Campaign:
    """Run the plan of ``seed`` on a cluster."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self.outcome = Outcome(seed)
        self._operator = Operator(cluster, _say)
        self._stop = threading.Event()
        self._observers = [
            Observer(engine, cluster.databases[f"replica-{engine}"]) for engine in cluster.layout.replicas
        ]
        self._bugs: set[str] = set()

    def run(self, seconds: float, faults_of_a_round: int = 7, storm_s: float = STORM_S) -> Outcome:
        """Run rounds until the time is over, or until something does not recover."""
        end = time.monotonic() + seconds
        for observer in self._observers:
            observer.start()
        try:
            self._recover("the start")
            for each in rounds(self.outcome.seed, self._cluster.layout, faults_of_a_round, storm_s):
                if time.monotonic() >= end:
                    break
                self._run_round(each)
        except NotInTimeError as error:
            self._note("the campaign", str(error))
        finally:
            self._finish()
        return self.outcome

    def look(self, replica: str) -> list[Violation]:
        """Read a replica once more, and return what is wrong."""
        [observer] = [each for each in self._observers if each.name == replica]
        before = len(observer.violations)
        observer.look()
        return observer.violations[before:]

    def _run_round(self, each: Round) -> None:
        _say(f"round {each.number}: " + "; ".join(map(str, each.faults)))
        with ThreadPoolExecutor(len(each.faults) or 1) as pool:
            begin = time.monotonic()
            done = [pool.submit(self._inject, fault, begin) for fault in each.faults]
        for fault in done:
            fault.result()
        for server in self._cluster.all_servers():
            start_again(server)
        self._recover(f"round {each.number}")
        for service, error in self._errors():
            self._note(service, error)
        if each.operation is not None:
            _say(f"round {each.number}: {each.operation.kind} {each.operation.target}")
            self.outcome.injected[each.operation.kind] += 1
            self._operator.run(each.operation)
            self._recover(each.operation.kind)
            # Relays and workers have ended to ask for the operator.
            self._errors()
        for door in self._cluster.doors.values():
            door.end_silent()
        self._look_for_bugs()
        self.outcome.rounds += 1

    def _inject(self, fault: Fault, begin: float) -> None:
        time.sleep(max(0.0, begin + fault.begin_s - time.monotonic()))
        try:
            inject(self._cluster, fault, time.sleep)
        except NotInjectedError as error:
            _say(f"not injected: {fault}: {error}")
            self.outcome.missed[fault.kind] += 1
        else:
            self.outcome.injected[fault.kind] += 1

    # -- the checks after a round

    def _recover(self, after: str) -> None:
        """Hold the writers, and wait until every replica is consistent and equal to the primary."""
        begin = time.monotonic()
        with self._held_writers():
            wanted: Rows = {}
            missing = {observer.name: "not read yet" for observer in self._observers}
            while missing:
                if time.monotonic() - begin > RECOVERY_S:
                    raise NotInTimeError(f"after {after}, not equal within {RECOVERY_S:.0f} s: {missing}")
                # The last commits of the writers may still be under way.
                if (rows := self._primary_rows()) != wanted:
                    wanted = rows
                    missing = {observer.name: "not read yet" for observer in self._observers}
                for observer in self._observers:
                    if observer.name in missing:
                        missing[observer.name] = _difference(observer, wanted)
                missing = {name: why for name, why in missing.items() if why}
                if missing:
                    time.sleep(_LOOK_S)
        self.outcome.recoveries.append(time.monotonic() - begin)
        _say(f"equal {self.outcome.recoveries[-1]:.1f} s after {after}, violations so far: {self._violations()}")

    @contextmanager
    def _held_writers(self) -> Iterator[None]:
        writers = self._cluster.services.named("writer")
        for writer in writers:
            writer.suspend()
        try:
            yield
        finally:
            for writer in writers:
                writer.resume()

    def _primary_rows(self) -> Rows:
        try:
            with self._cluster.databases["primary"].snapshot() as connection:
                if wrong := bank.read(connection).wrong:
                    self._note("the primary", f"{wrong}")
                return _rows(connection)
        except sa.exc.DBAPIError:
            return {}

    def _errors(self) -> list[tuple[str, str]]:
        """Return the processes that have ended with an error since the last call, each with its error."""
        return [
            (service.name, error) for service in self._cluster.services.named("") for error in service.take_errors()
        ]

    def _look_for_bugs(self) -> None:
        """Note a bug in the log once for each process."""
        for service in self._cluster.services.named(""):
            text = service.text()
            if service.name not in self._bugs and any(bug in text for bug in _LOGGED_BUGS):
                self._bugs.add(service.name)
                self._note(service.name, f"a bug, see {service.log}")

    def _violations(self) -> int:
        return len(self.outcome.violations) + sum(len(observer.violations) for observer in self._observers)

    def _note(self, where: str, what: str) -> None:
        violation = Violation(time.time(), where, what)
        _say(f"VIOLATION {violation}")
        self.outcome.violations.append(violation)

    def _finish(self) -> None:
        outcome = self.outcome
        outcome.ended = time.time()
        self._look_for_bugs()
        for observer in self._observers:
            observer.stop()
            outcome.violations += observer.violations
            outcome.failed_reads += observer.failed
            outcome.reads.update({f"{observer.name}, {state}": n for state, n in observer.reads.items()})
        for service in self._cluster.services.named(""):
            kind = service.name.partition("-")[0]
            outcome.exits.update({f"{kind}, {code}": n for code, n in service.exits.items()})


def _difference(observer: Observer, wanted: Rows) -> str:
    """Return why the replica is not what it has to be, or an empty text."""
    try:
        with observer.database.snapshot() as connection:
            state = state_of(connection)
            if state != ReplicaState("consistent", None):
                return f"{state.state}: {state.reason}"
            found = _rows(connection)
    except sa.exc.DBAPIError as error:
        return f"{error.orig}"
    return "; ".join(
        f"{name}: {len(set(rows) - set(found[name]))} rows are missing, {len(set(found[name]) - set(rows))} too many"
        for name, rows in wanted.items()
        if rows != found[name]
    ) or ("" if wanted else "the primary was not read")


def _rows(connection: sa.Connection) -> Rows:
    return {
        table.name: [tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns))]
        for table in bank.TABLES
    }


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)
