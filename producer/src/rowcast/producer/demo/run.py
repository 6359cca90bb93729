"""The demo's course: trade, catch up, stop, compare."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import sessionmaker

from rowcast.producer import Capture
from rowcast.producer.demo.ending import tell_ending
from rowcast.producer.demo.places import REPLICA_NAME, Places, fresh_database, places, write_config
from rowcast.producer.demo.processes import RealProcess, environment, rowcast, running
from rowcast.producer.demo.shop import Base
from rowcast.producer.demo.trade import Shop
from rowcast.producer.demo.view import Tally, view
from rowcast.shared import kafka, logs
from rowcast.shared.embedded import embedded_kafka
from rowcast.shared.errors import ConfigurationError, RowcastError
from rowcast.shared.events import transaction_topic
from rowcast.shared.stopping import stop_on_signals

_log = logging.getLogger("rowcast.demo")

_TRANSACTIONS_PER_S = 150
_CATCH_UP_S = 60.0
_LOOK_S = 0.05

_NEXT_LSN = sa.text("SELECT next_lsn FROM rowcast_lease WHERE source = :source")
_APPLIED_LSN = sa.text(
    "SELECT max(p.lsn) FROM rowcast_position p JOIN rowcast_replica r ON r.source = p.source "
    "WHERE p.source = :source AND r.state = 'consistent'"
)


class _StoppedError(Exception):
    """A signal has asked the demo to stop."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What to run. None means: an SQLite file, or a Kafka of its own."""

    directory: Path
    seconds: float
    seed: int
    kafka: str | None = None
    primary: str | None = None
    replica: str | None = None
    source: str | None = None

    def topics_prefix(self) -> str:
        """A real Kafka remembers earlier runs, so there each run has a name of its own."""
        return self.source or ("rowcast-demo" if self.kafka is None else f"rowcast-demo-{uuid.uuid4().hex[:6]}")


def run_demo(demo: Demo, *, log_format: logs.LogFormat) -> int:
    """Runs it and gives the exit code: 0 only if both databases are equal in the end."""
    tally = Tally(demo.seconds)
    # A terminal that is closed is no reason to leave processes behind.
    with stop_on_signals(signal.SIGHUP) as stop:
        try:
            where = places(demo.directory, demo.primary, demo.replica)
            _replicate(demo, where, tally, log_format, stop)
            equal = _verify(where, stop)
        except _StoppedError:
            _log.warning("stopped before the databases were compared")
            return 1
    tell_ending(where, tally, equal=equal, kafka_stays=demo.kafka is not None)
    return 0 if equal else 1


def _replicate(demo: Demo, where: Places, tally: Tally, log_format: logs.LogFormat, stop: threading.Event) -> None:
    source = demo.topics_prefix()
    with _kafka(demo.kafka, source) as bootstrap, _databases(where) as (primary, replica):
        write_config(where, source, bootstrap)
        capture = Capture(Base.metadata, source=source)
        Base.metadata.create_all(primary)
        sessions = sessionmaker(primary)
        capture.install(sessions)
        try:
            with view(tally, log_format):
                with running(where, ("relay",), ("worker", REPLICA_NAME)) as (relay, worker):
                    course = _Course(tally, relay, worker, stop)
                    course.trade(Shop(sessions, demo.seed))
                    course.catch_up(lambda: _caught_up(primary, replica, source))
                course.end()
        finally:
            capture.uninstall(sessions)


@contextmanager
def _kafka(given: str | None, source: str) -> Iterator[str]:
    if given is not None:
        properties = {"bootstrap.servers": given}
        if transaction_topic(source) in kafka.reach(properties, "relay").topics:
            raise ConfigurationError(
                f"Kafka at {given} has topics of the source {source!r} from before: name another one with --source."
            )
        yield given
        return
    with embedded_kafka() as bootstrap:
        # The mock makes a topic when it is asked for: the worker can join while the relay starts.
        kafka.new_admin({"bootstrap.servers": bootstrap}, "relay").list_topics(transaction_topic(source), timeout=10)
        yield bootstrap


@contextmanager
def _databases(where: Places) -> Iterator[tuple[Engine, Engine]]:
    if where.primary == where.replica:
        raise ConfigurationError("--primary and --replica are the same database: a replica needs its own.")
    primary = fresh_database(where.primary, "primary")
    replica = fresh_database(where.replica, "replica")
    try:
        yield primary, replica
    finally:
        primary.dispose()
        replica.dispose()


class _Course:
    """The shop's day beside the processes that replicate it."""

    def __init__(self, tally: Tally, relay: RealProcess, worker: RealProcess, stop: threading.Event) -> None:
        self._tally = tally
        self._relay = relay
        self._worker = worker
        self._stop = stop

    def trade(self, shop: Shop) -> None:
        """One transaction after another, at an even pace; on a slow machine fewer.

        It does not wait for relay and worker, as no application should: what it writes before they are up is in the
        outbox. The worker's group alone takes Kafka three seconds to form.
        """
        tally = self._tally
        tally.phase = "the shop is open"
        tally.rows += shop.open()
        opened = time.monotonic()
        planned = max(1, round(tally.planned_s * _TRANSACTIONS_PER_S))
        for number, rows in enumerate(shop.trade(planned), start=1):
            tally.rows += rows
            tally.transactions = number
            if number % 10 == 0:
                self._look()
            tally.traded_s = time.monotonic() - opened
            if tally.traded_s > tally.planned_s:
                break
            time.sleep(max(0.0, number / _TRANSACTIONS_PER_S - tally.traded_s))

    def catch_up(self, caught_up: Callable[[], bool]) -> None:
        """Waits until the replica has what the primary has. Raises RowcastError if it takes too long."""
        self._tally.phase = "the shop is closed, the replica catches up"
        if not self._wait(caught_up, _CATCH_UP_S):
            logs_ = f"{self._relay.log} and {self._worker.log}"
            raise RowcastError(f"the replica has not caught up after {_CATCH_UP_S:.0f} s. See {logs_}.")
        self._tally.phase = "relay and worker finish"

    def end(self) -> None:
        """After both were told to stop. Raises RowcastError if one did not finish in order."""
        self.take_down()
        self._relay.require_done()
        self._worker.require_done()

    def take_down(self) -> None:
        """What relay and worker have told so far."""
        self._tally.published = self._relay.figures().get("events", 0)
        applied = self._worker.figures()
        self._tally.applied = applied.get("events", 0)
        self._tally.behind_ms = applied.get("behind_ms", 0)

    def _look(self) -> None:
        if self._stop.is_set():
            raise _StoppedError
        self._relay.require_alive()
        self._worker.require_alive()
        self.take_down()

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        given_up = time.monotonic() + seconds
        while not done():
            self._look()
            if time.monotonic() > given_up:
                return False
            time.sleep(_LOOK_S)
        return True


def _caught_up(primary: Engine, replica: Engine, source: str) -> bool:
    """Nothing is left in the outbox, and what was published last is what was applied last."""
    with primary.connect() as connection:
        if connection.scalar(sa.select(sa.func.count()).select_from(sa.table("rowcast_outbox"))):
            return False
        next_lsn = connection.scalar(_NEXT_LSN, {"source": source})
    if not sa.inspect(replica).has_table("rowcast_position"):
        return False
    with replica.connect() as connection:
        applied = connection.scalar(_APPLIED_LSN, {"source": source})
    return next_lsn is not None and applied is not None and applied + 1 >= next_lsn


def _verify(where: Places, stop: threading.Event) -> bool:
    """``rowcast verify`` as its real self; what it says goes to the terminal. Raises RowcastError if it cannot tell."""
    command = rowcast("verify", REPLICA_NAME, f"--config={where.config}")
    with subprocess.Popen(command, env=environment(), start_new_session=True) as process:
        while process.poll() is None:
            if stop.wait(_LOOK_S):
                process.terminate()
                raise _StoppedError
        exit_code = process.returncode
    if exit_code not in (0, 1):
        raise RowcastError(f"`rowcast verify` could not compare the databases: exit code {exit_code}.")
    return exit_code == 0
