"""Relays crash at every step, or sleep while another leads. Every reader sees each event once and in order."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest
import sqlalchemy as sa
from confluent_kafka import KafkaError, KafkaException

from rowcast.producer.outbox.standbys import standbys
from rowcast.producer.relay import Relay, main_loop
from rowcast.producer.relay.kafka.transactional_producer import TransactionalProducer
from rowcast.shared.config.settings import Settings
from servers import Broker
from support.relay.counter_app import Counters
from support.relay.fault_injection import STEPS, CrashAt, CrashError, Faults, PauseAt
from support.relay.primary import ORDERS, Primary, line
from support.relay.settings import NewSettings, settings_of
from support.relay.threads import RunningRelay, running_thread, wait_until
from support.relay.topic_reader import assert_whole_transactions, notes_by_key, read_topics

pytestmark = pytest.mark.shared_dialect


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    faults = Faults(monkeypatch)
    yield faults
    faults.end()


@pytest.fixture
def new_settings(kafka: Broker, source_name: str) -> NewSettings:
    return partial(settings_of, kafka, source_name, topics={"partitions": 2})


def assert_each_event_once_and_in_order(settings: Settings, primary: Primary, counters: Counters) -> None:
    servers = str(settings.kafka["bootstrap.servers"])
    committed = read_topics(servers, settings.source, "read_committed").stream
    worker = read_topics(servers, settings.source, "read_uncommitted").by_lsn_rule().stream
    for stream in (committed, worker):
        assert_whole_transactions(stream)
        assert notes_by_key(stream) == counters.expected()
    assert primary.ids() == []
    assert primary.claims() == 0


def expire_lease(primary: Primary) -> None:
    with primary.engine.begin() as connection:
        connection.execute(sa.update(primary.tables.lease).values(expires_ms=0))


@pytest.mark.campaign
@pytest.mark.parametrize("seed", [1])
def test_crashes_at_random_steps(
    primary: Primary, new_settings: NewSettings, faults: Faults, seed: int, campaign: bool
) -> None:
    rng = random.Random(f"{seed} {primary.engine.dialect.name}")
    counters = Counters(primary)
    crashes: Counter[str] = Counter()
    for _ in range(100 if campaign else 6):
        # A transaction may be larger than a claim, and each claim may be a Kafka transaction.
        claim_rows, kafka_transaction_ms = rng.choice([2, 5, 100]), rng.choice([0, 5, 50])
        settings = new_settings(primary, claim_rows=claim_rows, kafka_transaction_ms=kafka_transaction_ms)
        for _ in range(rng.randint(1, 8)):
            counters.raise_some(rng)
        step = rng.choice(STEPS)
        faults.plan(CrashAt(step, rng.randint(1, 20 if step == "after a message" else 2)))
        try:
            Relay(settings, primary.engine).run_once()
        except CrashError:
            crashes[step] += 1
        expire_lease(primary)
    faults.plan(None)
    print(f"{crashes.total()} crashes: {dict(crashes)}")
    assert crashes.total() > 0
    Relay(settings, primary.engine).run_once()
    assert_each_event_once_and_in_order(settings, primary, counters)


# On servers, test the steps before a write to the database, because each engine's own statement must refuse the write.
# test_lease.py tests the other writes.
SLEEPS = [("sqlite", step) for step in STEPS] + [
    (engine, step) for engine in ("postgresql", "mariadb") for step in ("before claim", "before settle")
]


@pytest.mark.parametrize(("primary_url", "step"), SLEEPS, indirect=["primary_url"])
def test_a_relay_that_sleeps_while_another_leads_does_no_harm(
    primary: Primary, new_settings: NewSettings, faults: Faults, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay wakes up while the other works, and may even take over again later."""
    monkeypatch.setattr(main_loop, "_STANDBY_POLL_S", 0.02)
    # Only ``expire_lease`` ends a lease.
    settings = new_settings(primary, claim_rows=3, kafka_transaction_ms=20, lease_ms=60_000)
    counters = Counters(primary)
    rng = random.Random(step)
    for _ in range(5):
        counters.raise_some(rng)
    pause = PauseAt(step)
    sleeper = RunningRelay(_PlannedRelay(settings, primary, faults, pause))
    assert pause.reached.wait(60)
    expire_lease(primary)
    with running_thread(Relay(settings, primary.engine)) as leader:

        def write_until_published(events: int) -> None:
            goal = leader.relay.progress.events + events

            def written() -> bool:
                counters.raise_some(rng)
                return leader.relay.progress.events >= goal

            wait_until(written)

        write_until_published(5)
        pause.resume()
        write_until_published(5)
        # The relay's init_transactions may fence the leader, also when it is repeated after a timeout.
        wait_until(lambda: sleeper.relay.progress.state == "standing by")
        # The leader notices a fenced producer at its next use.
        write_until_published(5)
        wait_until(lambda: primary.ids() == [])
        epoch = leader.relay.progress.epoch
        write_until_published(5)
        assert leader.relay.progress.epoch == epoch, "once it stands by, it leaves the leader in peace"
        assert leader.ended_by is None
        assert sleeper.ended_by is None
    wait_until(lambda: sleeper.relay.progress.state == "leading")
    sleeper.stop()
    Relay(settings, primary.engine).run_once()
    assert_each_event_once_and_in_order(settings, primary, counters)


class _PlannedRelay(Relay):
    """Run a relay in a thread with a plan of faults."""

    def __init__(self, settings: Settings, primary: Primary, faults: Faults, pause: PauseAt) -> None:
        super().__init__(settings, primary.engine)
        self._faults = faults
        self._pause = pause

    def run(self, stop: threading.Event) -> None:
        self._faults.plan(self._pause)
        super().run(stop)


def test_claims_stop_at_their_limit_without_commits_and_few_transactions_publish_them_again(
    lite: Primary, new_settings: NewSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka acknowledges messages and commits nothing, as without the coordinator of its transactions."""
    monkeypatch.setattr(main_loop, "_STOP_TIMEOUT_S", 0.1)
    settings = new_settings(lite, max_claims=20)
    lite.add_shapes(ORDERS)
    with monkeypatch.context() as without_coordinator, running_thread(Relay(settings, lite.engine)) as relay:
        # The first event publishes the shape, in a Kafka transaction of its own.
        lite.add("first", line(ORDERS, "c", 0, "1"))
        wait_until(lambda: not lite.ids())
        without_coordinator.setattr(TransactionalProducer, "commit", _time_out)
        for n in range(1, 31):
            lite.add(f"t{n}", line(ORDERS, "c", n, "1"))
            relay.relay.wake()
            wait_until(partial(lambda n: lite.claims() in (20, n), n))
        relay.stop()
    assert lite.claims() == 20
    commits = []
    commit = TransactionalProducer.commit

    def count_and_commit(producer: TransactionalProducer, timeout: float) -> None:
        commit(producer, timeout)
        commits.append(producer)

    monkeypatch.setattr(TransactionalProducer, "commit", count_and_commit)
    Relay(settings, lite.engine).run_once()
    # The recorded claims share a Kafka transaction, and the waiting rows another.
    assert len(commits) <= 4
    assert lite.ids() == []
    assert lite.claims() == 0
    for isolation in ("read_committed", "read_uncommitted"):
        topics = read_topics(str(settings.kafka["bootstrap.servers"]), settings.source, isolation)
        stream = topics.by_lsn_rule().stream
        assert_whole_transactions(stream)
        assert notes_by_key(stream) == {n: [1] for n in range(31)}


def _time_out(producer: TransactionalProducer, timeout: float) -> None:
    threading.Event().wait(0.01)
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


def standbys_of(primary: Primary, settings: Settings) -> list[str]:
    with primary.engine.connect() as connection:
        return standbys(connection, primary.tables, settings.source, None)


def test_a_standby_takes_over_at_once_from_a_leader_that_stops_in_order(
    primary: Primary, new_settings: NewSettings
) -> None:
    """The lease is long, so the test does not wait for its end."""
    settings = new_settings(primary, lease_ms=600_000)
    counters = Counters(primary)
    rng = random.Random(1)
    with running_thread(Relay(settings, primary.engine)) as first:
        wait_until(lambda: first.relay.progress.state == "leading")
        with running_thread(Relay(settings, primary.engine)) as second:
            wait_until(lambda: second.relay.progress.state == "standing by")
            wait_until(lambda: len(standbys_of(primary, settings)) == 1)
            counters.raise_some(rng)
            first.stop()
            wait_until(lambda: second.relay.progress.state == "leading")
            assert standbys_of(primary, settings) == []
            counters.raise_some(rng)
    Relay(settings, primary.engine).run_once()
    assert_each_event_once_and_in_order(settings, primary, counters)


def test_a_standby_takes_over_when_the_leader_is_silent_for_the_leases_time(
    lite: Primary, new_settings: NewSettings, faults: Faults
) -> None:
    settings = new_settings(lite, lease_ms=600)
    Counters(lite).raise_some(random.Random(1))
    pause = PauseAt("before claim")
    silent = RunningRelay(_PlannedRelay(settings, lite, faults, pause))
    assert pause.reached.wait(60)
    with running_thread(Relay(settings, lite.engine)) as second:
        wait_until(lambda: second.relay.progress.state == "leading")
        pause.resume()
        wait_until(lambda: silent.relay.progress.state == "standing by")
    silent.stop()


def test_once_with_another_leader_waits_for_it_to_empty_the_outbox(lite: Primary, new_settings: NewSettings) -> None:
    settings = new_settings(lite)
    counters = Counters(lite)
    with running_thread(Relay(settings, lite.engine)) as leader:
        wait_until(lambda: leader.relay.progress.state == "leading")
        for n in range(3):
            counters.raise_some(random.Random(n))
        assert Relay(settings, lite.engine).run_once() == 0
        assert lite.ids() == []
