"""Run the demo: prepare both databases and a Kafka, run the course, and print the kept promises."""

from __future__ import annotations

import logging
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, sessionmaker

from rowcast.producer import Capture
from rowcast.producer.demo.bank_watch import BankWatch
from rowcast.producer.demo.course import Course, StoppedError
from rowcast.producer.demo.live_view import view
from rowcast.producer.demo.models import Base
from rowcast.producer.demo.open_shop import OpenShop
from rowcast.producer.demo.processes import processes_of
from rowcast.producer.demo.replica_state import ReplicaState
from rowcast.producer.demo.summary import print_summary
from rowcast.producer.demo.tally import Tally
from rowcast.producer.demo.traffic import Shop
from rowcast.producer.demo.workspace import Workspace, fresh_database, open_workspace, write_config
from rowcast.shared.cli import logs
from rowcast.shared.cli.signals import stop_on_signals
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.kafka import clients
from rowcast.shared.kafka.mock_cluster import embedded_kafka
from rowcast.shared.kafka.topic_names import transaction_topic

_log = logging.getLogger("rowcast.demo")


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
        """Return the source.

        A real Kafka keeps the topics of earlier runs, so each run on a real Kafka has a new source.
        """
        return self.source or ("rowcast-demo" if self.kafka is None else f"rowcast-demo-{uuid.uuid4().hex[:6]}")


def run_demo(demo: Demo, *, log_format: logs.LogFormat) -> int:
    """Run the demo, and return the exit code: 0 only if every promise was kept.

    After a signal the directory is removed, because nothing in it is complete.
    """
    tally = Tally(demo.seconds)
    # Closing the terminal must not leave processes behind.
    with stop_on_signals(signal.SIGHUP, ends=False) as stop:
        where = open_workspace(demo.directory, demo.primary, demo.replica)
        try:
            comparison = _run(demo, where, tally, log_format, stop)
        except StoppedError:
            where.remove()
            _log.warning("stopped before the databases were compared, and %s is removed", where.directory)
            return 1
        except KeyboardInterrupt:
            where.remove()
            raise
    print_summary(where, tally, comparison, kafka_stays=demo.kafka is not None)
    return 0 if tally.promises.are_kept else 1


def _run(demo: Demo, where: Workspace, tally: Tally, log_format: logs.LogFormat, stop: threading.Event) -> str:
    """Run the course. Return the output of the last comparison."""
    source = demo.topics_prefix()
    with ExitStack() as opened:
        bootstrap = opened.enter_context(_kafka(demo.kafka, source))
        primary, replica = opened.enter_context(_databases(where))
        write_config(where, source, bootstrap)
        shop = Shop(opened.enter_context(_captured_sessions(primary, source)), demo.seed)
        bank = BankWatch(replica, tally)
        open_shop = OpenShop(shop, tally)
        opened.enter_context(view(tally, log_format))
        opened.enter_context(bank.reading())
        processes = opened.enter_context(processes_of(where))
        opened.enter_context(open_shop.trading())
        state = ReplicaState(primary, replica, source)
        course = Course(tally, processes, open_shop, bank, state, replica, stop)
        course.kill_the_worker()
        course.change_rows_by_hand(shop.visitor)
        course.lose_the_replica()
        course.close_the_shop()
        return course.compare()


@contextmanager
def _captured_sessions(primary: Engine, source: str) -> Iterator[sessionmaker[Session]]:
    """Install the capture as an application does: three lines."""
    sessions = sessionmaker(primary)
    capture = Capture(Base.metadata, source=source)
    Base.metadata.create_all(primary)
    capture.install(sessions)
    try:
        yield sessions
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
        # The mock creates a topic when a client asks for the topic, so the worker can start together with the relay.
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
