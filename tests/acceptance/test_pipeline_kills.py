"""Kill processes at random moments and start new ones. Databases are equal at the end, and each event comes once."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from servers import Broker
from support.pipeline.database_diff import assert_same_foreign_keys, assert_same_rows
from support.pipeline.pipeline import Command, Pipeline, wait_for
from support.pipeline.plans import ActionPlan
from support.pipeline.relay_fleet import Relays
from support.pipeline.topic_invariants import Published, must_read_the_same
from support.pipeline.workload import Application

# A standby takes over from a leader that is silent for the length of the lease.
LEASE_MS = 1_500
# Kafka replaces a killed worker after this time.
SESSION = {"session.timeout.ms": 2_000, "heartbeat.interval.ms": 400}
WRITERS = (1, 2)
# Longer than a broker waits for a lost group member, plus a restart of all processes.
RECOVERY_S = 90.0

_STATE = sa.text("SELECT state FROM rowcast_replica WHERE source = :source")


@dataclass(frozen=True)
class Plan(ActionPlan):
    """Plan how often each action is done."""

    kill_relay: int = 0
    kill_worker: int = 0
    kill_both: int = 0
    kill_writer: int = 0
    pause_relay: int = 0
    kill_broker: int = 0

    def in_full(self) -> Plan:
        return Plan(**{name: times * 20 for name, times in vars(self).items()})


PLANS = {
    "postgresql": Plan(kill_relay=1, kill_worker=1, kill_both=1, kill_writer=1, pause_relay=1, kill_broker=1),
    "mariadb": Plan(kill_relay=1, kill_worker=1, kill_writer=1, kill_broker=1),
    "sqlite": Plan(kill_relay=1, kill_worker=1, kill_writer=1),
}


@dataclass
class Campaign:
    """Run two relays, a worker and two writers, and kill or pause them."""

    pipeline: Pipeline
    broker: Broker
    primary_url: str
    random: random.Random
    watch: Watch
    relays: Relays
    workers: list[Command] = field(default_factory=list)
    writers: dict[int, Command] = field(default_factory=dict)

    def start(self) -> None:
        self.relays.start_missing()
        self.workers = [self.pipeline.start("worker", "live")]
        for number in WRITERS:
            self.start_writer(number)

    def start_writer(self, number: int) -> None:
        arguments = (self.primary_url, self.pipeline.source, str(number), str(self.random.getrandbits(32)))
        self.writers[number] = self.pipeline.run_python("-m", "support.pipeline.workload", *arguments)

    def run(self, plan: Plan) -> None:
        actions = plan.actions(self)
        self.random.shuffle(actions)
        for action in actions:
            self.wait_until_it_flows()
            # Do not wait for a condition here, because the experiment needs random moments.
            time.sleep(self.random.uniform(0.0, 0.5))
            print(f"{time.strftime('%H:%M:%S')} {action.__name__}")
            action()
        self.wait_until_it_flows()
        for writer in self.writers.values():
            wait_for("the writer has begun to write", partial(writer.has_logged, "writing"))
            self.pipeline.stop(writer)

    def wait_until_it_flows(self) -> None:
        """Wait until a row that is written from now on has been applied."""
        with self.pipeline.primary.connect() as connection:
            begin = connection.scalar(sa.text("SELECT max(next_lsn) FROM rowcast_lease")) or 0

        def applied() -> bool:
            self.watch.must_have_seen_no_other()
            self.start_again()
            self.pipeline.must_be_running()
            return self.pipeline.applied("live")[0] > begin

        wait_for(f"the replica has more than lsn {begin}", applied, RECOVERY_S)
        seen = self.watch.states

        def seen_by_a_reader() -> bool:
            self.watch.must_have_seen_no_other()
            return self.watch.states > seen

        wait_for("a reader of the replica sees something new", seen_by_a_reader, RECOVERY_S)

    def start_again(self) -> None:
        """Start processes again, as a supervisor does, if they ended during their start because the broker was down."""
        self.relays.start_again()
        for n, worker in enumerate(self.workers):
            if self.pipeline.ended_at_the_start(worker):
                self.workers[n] = self.pipeline.start("worker", "live")

    # -- the actions of a plan

    def kill_relay(self) -> None:
        self.relays.kill(self.relays.leader())

    def kill_worker(self) -> None:
        self.pipeline.kill(self.workers.pop())
        self.workers.append(self.pipeline.start("worker", "live"))

    def kill_both(self) -> None:
        self.kill_relay()
        self.kill_worker()

    def kill_writer(self) -> None:
        number = self.random.choice(WRITERS)
        self.pipeline.kill(self.writers[number])
        self.start_writer(number)

    def pause_relay(self) -> None:
        """Pause the leader until the lease has ended and another relay leads. Then resume the old leader."""
        leader, epoch = self.relays.leader_and_epoch()
        leader.pause()
        wait_for("another relay leads", lambda: self.relays.epoch() > epoch)
        self.wait_until_it_flows()
        leader.resume()

    def kill_broker(self) -> None:
        self.broker.kill()
        self.broker.start()


class Watch:
    """Read the live replica again and again, and check that each read finds a state of the primary."""

    def __init__(self, replica: sa.Engine, source: str, application: Application) -> None:
        self.states = 0
        """The number of different states found."""
        self._transfers = 0
        self._replica = replica
        self._source = source
        self._application = application
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.must_have_seen_no_other()

    def must_have_seen_no_other(self) -> None:
        """Raise the error if a read found a state that the primary never had."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                begun = time.monotonic()
                self._look()
                # Read less often when a read takes longer, to leave processor time to the tested processes.
                self._stop.wait(max(0.1, 5 * (time.monotonic() - begun)))
        except BaseException as error:  # noqa: BLE001  # the test raises it
            self._error = error

    def _look(self) -> None:
        sqlite = self._replica.dialect.name == "sqlite"
        options = {} if sqlite else {"isolation_level": "REPEATABLE READ"}
        with self._replica.connect().execution_options(**options) as connection:
            if sqlite:
                connection.exec_driver_sql("BEGIN")
            if not all(connection.dialect.has_table(connection, name) for name in ("rowcast_replica", "transfers")):
                return
            if connection.scalar(_STATE, {"source": self._source}) != "consistent":
                return
            ledger = self._application.ledger
            # A worker that began before the relay is consistent with the primary before its first transaction.
            if self.states or ledger.is_open(connection):
                transfers = ledger.must_balance(connection)
                self.states += transfers != self._transfers
                self._transfers = transfers


@pytest.mark.campaign
@pytest.mark.parametrize(
    "engine", ["postgresql", pytest.param("mariadb", marks=pytest.mark.only_in_campaigns), "sqlite"]
)
def test_after_kills_at_random_moments_the_databases_are_equal_and_each_event_is_there_once(
    engine: str,
    campaign: bool,
    tmp_path: Path,
    kafka: Broker,
    new_database: NewDatabase,
    source_name: str,
) -> None:
    primary_url = new_database(engine)
    plan = PLANS[engine].in_full() if campaign else PLANS[engine]
    application = Application(primary_url, source_name, writer=0)
    with Pipeline(
        tmp_path,
        source=source_name,
        kafka=kafka.bootstrap_servers,
        primary=primary_url,
        replicas={"live": new_database(engine), "late": new_database(engine)},
        relay={"lease_ms": LEASE_MS},
        topics={"partitions": 2},
        client=SESSION,
    ) as pipeline:
        application.run_each_operation(times=1)
        # From here on other processes write, each with a separate range of numbers.
        application.close()
        with Watch(pipeline.replicas["live"], source_name, application) as watch:
            choose = random.Random(f"{engine} {campaign}")
            harm = Campaign(pipeline, kafka, primary_url, choose, watch, Relays(pipeline, count=2))
            harm.start()
            harm.run(plan)
        # Build a new replica from the topics as they are after all kills.
        pipeline.start("worker", "late")
        pipeline.wait_until_caught_up()
        for name, replica in pipeline.replicas.items():
            rows = assert_same_rows(pipeline.primary, replica, application.metadata)
            assert_same_foreign_keys(application.metadata, replica)
            pipeline.verify(name)
        committed = Published(kafka.bootstrap_servers, source_name, "read_committed")
        committed.must_be_each_event_once_in_order()
        must_read_the_same(committed, Published(kafka.bootstrap_servers, source_name, "read_uncommitted"))
        transfers = {key for table, key in rows if table == "transfers"}
        published = [
            (m.value["after"]["writer"], m.value["after"]["number"])
            for m in committed.in_order()
            if m.table is not None and m.table.endswith(".transfers") and m.value["op"] == "c"
        ]
        assert len(published) == len(set(published))
        assert set(published) == transfers
