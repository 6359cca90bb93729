"""Kill, pause and stop relays at random moments under load, on a broker that restarts. The topics hold each committed
change once, in order, and nothing else."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from fixtures.databases import NewDatabase
from servers import Broker
from support.pipeline.pipeline import Pipeline, wait_for
from support.pipeline.plans import ActionPlan
from support.pipeline.recording_app import Load, Recorded
from support.pipeline.relay_fleet import Relays
from support.pipeline.topic_invariants import Message, Published, must_read_the_same

# A standby takes over from a leader that is silent for the length of the lease.
LEASE_MS = 1_500
# In outbox rows. Some transactions have more rows.
CLAIM_ROWS = 50
# A Kafka transaction is open for about 500 ms, so that a killed leader usually leaves an open transaction.
KAFKA_TRANSACTION_MS = 500
RECOVERY_S = 120.0


@dataclass(frozen=True)
class Plan(ActionPlan):
    """Plan how often each action is done."""

    kill_leader: int = 0
    kill_standby: int = 0
    kill_all: int = 0
    pause_leader: int = 0
    pause_leader_and_kill_its_successor: int = 0
    pause_leader_briefly: int = 0
    stop_leader: int = 0
    restart_broker: int = 0


SLICES = {
    "postgresql": Plan(2, 1, 1, 1, 1, 1, 1, restart_broker=1),
    "mariadb": Plan(kill_leader=1, pause_leader_and_kill_its_successor=1),
}
"""Each action once, and the kill of the leader twice. The actions on MariaDB meet its own statements on the lease."""
CAMPAIGN = Plan(65, 10, 15, 45, 25, 25, 15, restart_broker=10)
"""200 actions on relays, and restarts of the broker."""


class Harm:
    """Kill and pause relays and the broker while ``load`` continues."""

    def __init__(self, pipeline: Pipeline, broker: Broker, load: Load, choose: random.Random) -> None:
        self._pipeline = pipeline
        self._broker = broker
        self._load = load
        self._random = choose
        self._relays = Relays(pipeline, count=3)

    def run(self, plan: Plan) -> None:
        self._relays.start_missing()
        self._wait_until_it_flows()
        actions = plan.actions(self)
        self._random.shuffle(actions)
        for n, action in enumerate(actions, 1):
            # Every third action comes while relays are still taking over.
            if self._random.random() < 0.67:
                self._wait_until_it_flows()
            # Do not wait for a condition here, because the experiment needs random moments.
            time.sleep(self._random.uniform(0.0, 1.0))
            print(f"{time.strftime('%H:%M:%S')} {n:3} {action.__name__}, epoch {self._relays.epoch()}", flush=True)
            action()
        self._wait_until_it_flows()

    def end(self) -> None:
        """Wait until the outbox is empty, and stop the relays."""

        def empty() -> bool:
            self._go_on()
            return self._pipeline.backlog() == 0

        wait_for("the outbox is empty", empty, RECOVERY_S)
        self._relays.end()

    def _wait_until_it_flows(self) -> None:
        """Wait until an event that is claimed from now on is committed in Kafka."""
        begin = self._relays.next_lsn()

        def published() -> bool:
            self._go_on()
            return self._relays.published_lsn() > begin

        wait_for(f"more than lsn {begin} is published", published, RECOVERY_S)

    def _go_on(self) -> None:
        self._load.must_go_on()
        self._relays.start_again()
        self._pipeline.must_be_running()

    # -- the actions of a plan

    def kill_leader(self) -> None:
        self._relays.kill(self._relays.leader())

    def kill_standby(self) -> None:
        leader = self._relays.leader()
        self._relays.kill(self._random.choice([relay for relay in self._relays.running if relay is not leader]))

    def kill_all(self) -> None:
        for relay in list(self._relays.running):
            self._relays.kill(relay)

    def pause_leader(self) -> None:
        """Pause the leader until the lease has ended and another relay leads. Then resume the old leader."""
        leader, epoch = self._relays.leader_and_epoch()
        leader.pause()
        wait_for("another relay leads", lambda: self._relays.epoch() > epoch, RECOVERY_S)
        if self._random.random() < 0.5:
            self._wait_until_it_flows()
        leader.resume()

    def pause_leader_and_kill_its_successor(self) -> None:
        leader, epoch = self._relays.leader_and_epoch()
        leader.pause()
        wait_for("another relay leads", lambda: self._relays.epoch() > epoch, RECOVERY_S)
        time.sleep(self._random.uniform(0.0, 0.5))
        self.kill_leader()
        leader.resume()

    def pause_leader_briefly(self) -> None:
        """Pause the leader for less than its lease, so that no standby takes over."""
        leader = self._relays.leader()
        leader.pause()
        time.sleep(self._random.uniform(0.0, LEASE_MS / 2_000))
        leader.resume()

    def stop_leader(self) -> None:
        self._relays.stop(self._relays.leader())

    def restart_broker(self) -> None:
        if self._random.random() < 0.5:
            self._broker.kill()
        else:
            self._broker.stop()
        self._broker.start()


def must_be_what_was_committed(
    published: Published, recorded: list[Recorded], rows: dict[tuple[str, str], bytes]
) -> None:
    """Check that each recorded transaction is published once and whole, and each row's changes in commit order."""
    expected = {one.stamp: one for one in recorded}
    found: dict[str, Recorded] = {}
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    left: dict[tuple[str, str], bytes] = {}
    for transaction in published.transactions():
        stamp = transaction.begin.value["context"]["stamp"]
        assert transaction.end.value["context"] == {"stamp": stamp}
        assert stamp in expected, f"{stamp} was rolled back, and is published: {transaction.events[0].value}"
        assert stamp not in found, f"{stamp} is published twice: lsn {transaction.begin.lsn}"
        one = found[stamp] = expected[stamp]
        if one.tx is not None:
            assert transaction.begin.transaction == one.tx
        changes = [_change(event, stamp) for event in transaction.events]
        assert sorted(changes) == sorted(one.changes), f"lsn {transaction.begin.lsn}, {stamp}"
        for table, key, op, row in changes:
            numbers[table, key].append(one.number)
            if op == "d":
                del left[table, key]
            else:
                left[table, key] = row
    lost = expected.keys() - found.keys()
    assert not lost, f"{len(lost)} transactions are lost: {sorted(lost)[:20]}"
    for place, order in numbers.items():
        assert order == sorted(order), f"{place}: an older state behind a newer one"
    # Check the records themselves: replayed, the recorded changes give the rows of the database.
    assert left == rows


def _change(event: Message, stamp: str) -> tuple[str, str, str, bytes]:
    value = event.value
    assert value["transaction"]["context"] == {"stamp": stamp}
    assert value["source"]["txId"] == event.transaction
    return value["source"]["table"], event.key.decode(), value["op"], orjson.dumps(value["after"])


@pytest.mark.campaign
@pytest.mark.parametrize("engine", SLICES)
def test_relays_that_are_killed_and_paused_at_random_publish_each_committed_change_once_and_in_order(
    engine: str, campaign: bool, tmp_path: Path, kafka: Broker, new_database: NewDatabase, source_name: str
) -> None:
    url, seed = new_database(engine), f"{engine} {campaign}"
    load = Load(url, source_name, seed)
    with Pipeline(
        tmp_path,
        source=source_name,
        kafka=kafka.bootstrap_servers,
        primary=url,
        replicas={},
        relay={"lease_ms": LEASE_MS, "claim_rows": CLAIM_ROWS, "kafka_transaction_ms": KAFKA_TRANSACTION_MS},
        topics={"partitions": 3},
    ) as pipeline:
        harm = Harm(pipeline, kafka, load, random.Random(seed))
        with load.at_work():
            harm.run(CAMPAIGN if campaign else SLICES[engine])
        harm.end()
    recorded, rows = load.recorded(), load.rows()
    load.close()
    print(f"{load.committed} transactions were committed, {load.rolled_back} rolled back")
    assert load.rolled_back > 0
    committed = Published(kafka.bootstrap_servers, source_name, "read_committed")
    committed.must_be_each_event_once_in_order()
    must_be_what_was_committed(committed, recorded, rows)
    must_read_the_same(committed, Published(kafka.bootstrap_servers, source_name, "read_uncommitted"))
