"""The demo's course: trade, catch up, stop, compare."""

from __future__ import annotations

import logging
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import sessionmaker

from rowcast.producer import Capture
from rowcast.producer.demo.ending import tell_ending
from rowcast.producer.demo.places import REPLICA_NAME, Places, fresh_database, places, write_config
from rowcast.producer.demo.processes import RealProcess, ended_by_signals, environment, rowcast, running
from rowcast.producer.demo.shop import Base
from rowcast.producer.demo.trade import Shop
from rowcast.producer.demo.view import Tally, view
from rowcast.shared import logs
from rowcast.shared.embedded import embedded_kafka
from rowcast.shared.errors import ConfigurationError, RowcastError

_log = logging.getLogger("rowcast.demo")

_TRANSACTIONS_PER_S = 150
_CATCH_UP_S = 60.0
_LOOK_S = 0.05

_NEXT_LSN = sa.text("SELECT next_lsn FROM rowcast_lease WHERE source = :source")
_APPLIED_LSN = sa.text("SELECT lsn FROM rowcast_replica WHERE source = :source")


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
    tally = Tally(planned=max(1, round(demo.seconds * _TRANSACTIONS_PER_S)))
    try:
        with ended_by_signals():
            where = places(demo.directory, demo.primary, demo.replica)
            _replicate(demo, where, tally, log_format)
            equal = _verify(where)
    except KeyboardInterrupt:
        _log.warning("stopped before the databases were compared")
        return 1
    tell_ending(where, tally, equal=equal, kafka_stays=demo.kafka is not None)
    return 0 if equal else 1


def _replicate(demo: Demo, where: Places, tally: Tally, log_format: logs.LogFormat) -> None:
    source = demo.topics_prefix()
    with _kafka(demo.kafka) as bootstrap, _databases(where) as (primary, replica):
        write_config(where, source, bootstrap)
        capture = Capture(Base.metadata, source=source)
        Base.metadata.create_all(primary)
        sessions = sessionmaker(primary)
        capture.install(sessions)
        shop = Shop(sessions, demo.seed)
        try:
            with view(tally, log_format), running(where, ("relay",), ("worker", REPLICA_NAME)) as (relay, worker):
                _trade(shop, tally, relay, worker)
                _catch_up(primary, replica, source, tally, relay, worker)
                tally.phase = "stopping relay and worker"
        finally:
            capture.uninstall(sessions)


@contextmanager
def _kafka(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    with embedded_kafka() as bootstrap:
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


def _trade(shop: Shop, tally: Tally, relay: RealProcess, worker: RealProcess) -> None:
    """One transaction after another, at an even pace."""
    tally.phase = "the shop is open"
    tally.rows += shop.open()
    opened = time.monotonic()
    for number, rows in enumerate(shop.trade(tally.planned), start=1):
        tally.rows += rows
        tally.transactions = number
        if number % 10 == 0:
            _take_down(tally, relay, worker)
        time.sleep(max(0.0, opened + number / _TRANSACTIONS_PER_S - time.monotonic()))


def _take_down(tally: Tally, relay: RealProcess, worker: RealProcess) -> None:
    tally.published = relay.figures().get("events", tally.published)
    tally.applied = worker.figures().get("events", tally.applied)


def _catch_up(
    primary: Engine, replica: Engine, source: str, tally: Tally, relay: RealProcess, worker: RealProcess
) -> None:
    """Waits until the replica has what the primary had. Raises RowcastError if it takes too long."""
    tally.phase = "the shop is closed, the replica catches up"
    given_up = time.monotonic() + _CATCH_UP_S
    while True:
        _take_down(tally, relay, worker)
        if _caught_up(primary, replica, source):
            return
        if time.monotonic() > given_up:
            raise RowcastError(
                f"the replica has not caught up after {_CATCH_UP_S:.0f} s. See {relay.log} and {worker.log}."
            )
        time.sleep(_LOOK_S)


def _caught_up(primary: Engine, replica: Engine, source: str) -> bool:
    """Nothing is left in the outbox, and what was published last is what was applied last."""
    with primary.connect() as connection:
        if connection.scalar(sa.select(sa.func.count()).select_from(sa.table("rowcast_outbox"))):
            return False
        published = connection.scalar(_NEXT_LSN, {"source": source})
    if not sa.inspect(replica).has_table("rowcast_replica"):
        return False
    with replica.connect() as connection:
        applied = connection.scalar(_APPLIED_LSN, {"source": source})
    return published is not None and applied is not None and applied + 1 >= published


def _verify(where: Places) -> bool:
    """``rowcast verify`` as its real self; what it says goes to the terminal."""
    command = rowcast("verify", REPLICA_NAME, f"--config={where.config}")
    return subprocess.run(command, env=environment(), check=False).returncode == 0
