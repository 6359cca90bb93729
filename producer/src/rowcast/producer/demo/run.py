"""Run the demo: trade, catch up, stop, compare."""

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
from rowcast.producer.demo.live_view import Tally, view
from rowcast.producer.demo.models import Base
from rowcast.producer.demo.processes import RealProcess, environment, rowcast, running
from rowcast.producer.demo.summary import print_summary
from rowcast.producer.demo.traffic import Shop
from rowcast.producer.demo.workspace import REPLICA_NAME, Workspace, fresh_database, open_workspace, write_config
from rowcast.shared.cli import logs
from rowcast.shared.cli.signals import stop_on_signals
from rowcast.shared.errors import ConfigurationError, RowcastError
from rowcast.shared.kafka import clients
from rowcast.shared.kafka.mock_cluster import embedded_kafka
from rowcast.shared.kafka.topic_names import transaction_topic

_log = logging.getLogger("rowcast.demo")

_TRANSACTIONS_PER_S = 150
_CATCH_UP_S = 60.0
_POLL_S = 0.05

_NEXT_LSN = sa.text("SELECT next_lsn FROM rowcast_lease WHERE source = :source")
_APPLIED_LSN = sa.text(
    "SELECT max(p.lsn) FROM rowcast_position p JOIN rowcast_replica r ON r.source = p.source "
    "WHERE p.source = :source AND r.state = 'consistent'"
)


class _StoppedError(Exception):
    """Stop the demo after a signal."""


@dataclass(frozen=True, slots=True)
class Demo:
    """Hold the options of the demo. None means: an SQLite file, or the embedded Kafka."""

    directory: Path
    seconds: float
    seed: int
    kafka: str | None = None
    primary: str | None = None
    replica: str | None = None
    source: str | None = None

    def topics_prefix(self) -> str:
        """Return the source. A real Kafka keeps the topics of earlier runs, so each run has a new source there."""
        return self.source or ("rowcast-demo" if self.kafka is None else f"rowcast-demo-{uuid.uuid4().hex[:6]}")


def run_demo(demo: Demo, *, log_format: logs.LogFormat) -> int:
    """Run the demo, and return the exit code: 0 only if both databases are equal in the end."""
    tally = Tally(demo.seconds)
    # Closing the terminal must not leave processes behind.
    with stop_on_signals(signal.SIGHUP, ends=False) as stop:
        try:
            where = open_workspace(demo.directory, demo.primary, demo.replica)
            _replicate(demo, where, tally, log_format, stop)
            equal = _verify(where, stop)
        except _StoppedError:
            _log.warning("stopped before the databases were compared")
            return 1
    print_summary(where, tally, equal=equal, kafka_stays=demo.kafka is not None)
    return 0 if equal else 1


def _replicate(demo: Demo, where: Workspace, tally: Tally, log_format: logs.LogFormat, stop: threading.Event) -> None:
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
        if transaction_topic(source) in clients.reach(properties, "relay").topics:
            raise ConfigurationError(
                f"Kafka at {given} already has topics of the source {source!r}. Choose another source with --source."
            )
        yield given
        return
    with embedded_kafka() as bootstrap:
        # The mock creates a topic when a client asks for it, so the worker can start together with the relay.
        clients.new_admin({"bootstrap.servers": bootstrap}, "relay").list_topics(transaction_topic(source), timeout=10)
        yield bootstrap


@contextmanager
def _databases(where: Workspace) -> Iterator[tuple[Engine, Engine]]:
    if where.primary == where.replica:
        raise ConfigurationError("--primary and --replica are the same database. Give the replica another database.")
    primary = fresh_database(where.primary, "primary")
    replica = fresh_database(where.replica, "replica")
    try:
        yield primary, replica
    finally:
        primary.dispose()
        replica.dispose()


class _Course:
    """Drive the shop while relay and worker replicate its rows."""

    def __init__(self, tally: Tally, relay: RealProcess, worker: RealProcess, stop: threading.Event) -> None:
        self._tally = tally
        self._relay = relay
        self._worker = worker
        self._stop = stop

    def trade(self, shop: Shop) -> None:
        """Run transactions at an even pace, fewer on a slow machine.

        The shop does not wait for relay and worker, which need seconds to start. Its first rows are in the outbox
        until then.
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
                self._check()
            tally.traded_s = time.monotonic() - opened
            if tally.traded_s > tally.planned_s:
                break
            time.sleep(max(0.0, number / _TRANSACTIONS_PER_S - tally.traded_s))

    def catch_up(self, caught_up: Callable[[], bool]) -> None:
        """Wait until the replica has all rows of the primary. Raises RowcastError after a minute."""
        self._tally.phase = "the shop is closed, the replica catches up"
        if not self._wait(caught_up, _CATCH_UP_S):
            logs_ = f"{self._relay.log} and {self._worker.log}"
            raise RowcastError(f"the replica has not caught up after {_CATCH_UP_S:.0f} s. See {logs_}.")
        self._tally.phase = "relay and worker finish"

    def end(self) -> None:
        """Raise RowcastError if relay or worker did not end properly. Call it after both have stopped."""
        self.read_progress()
        self._relay.require_done()
        self._worker.require_done()

    def read_progress(self) -> None:
        """Read the progress of relay and worker into the tally."""
        self._tally.published = self._relay.figures().get("events", 0)
        applied = self._worker.figures()
        self._tally.applied = applied.get("events", 0)
        self._tally.behind_ms = applied.get("behind_ms", 0)

    def _check(self) -> None:
        if self._stop.is_set():
            raise _StoppedError
        self._relay.require_alive()
        self._worker.require_alive()
        self.read_progress()

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        given_up = time.monotonic() + seconds
        while not done():
            self._check()
            if time.monotonic() > given_up:
                return False
            time.sleep(_POLL_S)
        return True


def _caught_up(primary: Engine, replica: Engine, source: str) -> bool:
    """Return whether the outbox is empty and the replica has applied the last published lsn."""
    with primary.connect() as connection:
        if connection.scalar(sa.select(sa.func.count()).select_from(sa.table("rowcast_outbox"))):
            return False
        next_lsn = connection.scalar(_NEXT_LSN, {"source": source})
    if not sa.inspect(replica).has_table("rowcast_position"):
        return False
    with replica.connect() as connection:
        applied = connection.scalar(_APPLIED_LSN, {"source": source})
    return next_lsn is not None and applied is not None and applied + 1 >= next_lsn


def _verify(where: Workspace, stop: threading.Event) -> bool:
    """Run ``rowcast verify``, with its output on the terminal. Raises RowcastError if it could not compare."""
    command = rowcast("verify", REPLICA_NAME, f"--config={where.config}")
    with subprocess.Popen(command, env=environment(), start_new_session=True) as process:
        while process.poll() is None:
            if stop.wait(_POLL_S):
                process.terminate()
                raise _StoppedError
        exit_code = process.returncode
    if exit_code not in (0, 1):
        raise RowcastError(f"`rowcast verify` could not compare the databases: exit code {exit_code}.")
    return exit_code == 0
