"""A group of workers writes one replica, each worker the rows of its partitions."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient, NewPartitions

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.reading import subscription
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.group_positions import GroupPositions
from rowcast.consumer.replica.group_replica import GroupReplica
from rowcast.consumer.replica.positions import ReplicaChangedError
from rowcast.consumer.status.lag import replica_status
from rowcast.consumer.status.workers import group_id
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError, FencedError, RetriableError
from rowcast.shared.kafka.topic_names import table_topic
from servers import Broker
from servers.guard import Guard
from support.kafka_source import Source, column, shape
from support.rebuilds import rebuilt
from support.worker_process import WorkerProcess
from support.worker_runs import NAME, Database, RunningWorker, running_worker, settings_for, work_once
from support.written_rows import audit, written

pytestmark = pytest.mark.shared_dialect

ITEM = shape("item", column("n"), unique=[("n",)])
WIDER = shape("item", column("n"), column("more"), unique=[("n",)])
TAG = shape("tag")
NOTE = shape("note", column("item_id"), refers=[("item_id", "item")])

ON_SERVERS = pytest.mark.parametrize("replica_url", ["postgresql", "mariadb", "mysql"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("replica_url", ["sqlite"], indirect=True)


@pytest.fixture
def replica(replica_url: str) -> Database:
    return Database(replica_url)


@pytest.fixture
def settings(kafka: Broker, source_name: str, replica_url: str) -> Settings:
    settings = settings_for(
        source_name, kafka.bootstrap_servers, replica_url, consistency="row", batch_events=100, lease_ms=1000
    )
    soon = {"session.timeout.ms": 800, "heartbeat.interval.ms": 200}
    return settings.model_copy(update={"kafka": settings.kafka | soon})


@pytest.fixture
def source(kafka: Broker, source_name: str) -> Source:
    return Source(kafka.bootstrap_servers, source_name, partitions=4)


class Group:
    """Start worker processes, and kill them at the end of the test."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._settings = settings
        self._log = log
        self._guard = Guard()
        self._started: list[WorkerProcess] = []

    def start(self) -> WorkerProcess:
        self._started.append(WorkerProcess(self._settings, self._log, self._guard))
        return self._started[-1]

    def partitions(self) -> dict[int, int]:
        """Return the number of partitions of each process, as Kafka shows it."""
        admin = AdminClient({"bootstrap.servers": self._settings.kafka["bootstrap.servers"]})
        group = group_id(self._settings.source, NAME)
        members = admin.describe_consumer_groups([group])[group].result(10).members
        return {int(m.client_id.split(":")[1]): len(m.assignment.topic_partitions) for m in members}

    def close(self) -> None:
        for process in self._started:
            if process.runs:
                process.kill()
        self._guard.close()


@pytest.fixture
def group(settings: Settings, tmp_path: Path) -> Iterator[Group]:
    group = Group(settings, tmp_path / "workers.log")
    yield group
    group.close()
    print((tmp_path / "workers.log").read_text())


def until(condition: Callable[[], bool], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Writer:
    """Write transactions of `item` and `note` on a thread until the block ends, and know the rows."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.items: dict[int, int] = {}
        self.sent: dict[int, list[int]] = {}
        self.notes: set[int] = set()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()
        self._source.flush()

    def _write(self) -> None:
        chance = random.Random(7)
        for number in range(1, 100_000):
            if self._enough.is_set():
                return
            old = chance.choice(list(self.items) or [0])
            # The note comes before its item. The value of n moves from a row to another.
            lines: list[Any] = [("c", "note", {"id": number, "item_id": number})]
            lines += [("c", "item", {"id": number, "n": number})]
            self._note(number, number)
            if old and number % 5 == 0:
                lines += [("d", "item", {"id": old})]
                del self.items[old]
            elif old and number % 7 == 0:
                # The row is deleted and created again.
                lines += [("d", "item", {"id": old}), ("c", "item", {"id": old, "n": number})]
                self._note(old, number)
            elif old:
                lines += [("u", "item", {"id": old, "n": number})]
                self._note(old, number)
            self.notes.add(number)
            self._source.put(*lines)
            if number % 5 == 0:
                time.sleep(0.02)

    def _note(self, item: int, n: int) -> None:
        self.items[item] = n
        self.sent.setdefault(item, []).append(n)

    def is_applied(self, replica: Database) -> bool:
        items = dict(replica.rows("item", "id", "n"))
        return items == self.items and {row[0] for row in replica.rows("note", "id")} == self.notes

    def check(self, written: dict[int, list[int]]) -> None:
        """Compare the values that were written to each row with the values that were sent, in order and once.

        Batches leave out values that a later event of the batch has replaced.
        """
        for item, values in written.items():
            assert len(values) == len(set(values)), (item, values)
            places = [self.sent[item].index(n) for n in values]
            assert places == sorted(places), (item, values)


@ON_SERVERS
def test_each_change_is_applied_once_while_workers_are_killed_paused_and_added(
    source: Source, settings: Settings, replica: Database, group: Group
) -> None:
    source.add(ITEM, NOTE)
    work_once(settings)
    assert replica.state() == "following"
    audit(replica)
    with Writer(source) as writer:
        first, second = group.start(), group.start()
        until(lambda: group.partitions() == {first.pid: 4, second.pid: 4})
        first.kill()
        third = group.start()
        until(lambda: group.partitions() == {second.pid: 4, third.pid: 4})
        second.send(signal.SIGSTOP)
        until(lambda: group.partitions() == {third.pid: 8})
        # The third worker applies what the suspended worker has read.
        count = len(writer.notes)
        until(lambda: len(replica.rows("note")) > count)
        second.send(signal.SIGCONT)
        until(lambda: group.partitions() == {second.pid: 4, third.pid: 4})
    until(lambda: writer.is_applied(replica))
    assert second.terminate() == third.terminate() == 0
    writer.check(written(replica))
    assert replica.foreign_keys("note") == []
    assert replica.state() == "following"


@ON_SERVERS
@pytest.mark.only_in_campaigns
def test_each_change_is_applied_once_under_random_faults(
    source: Source, settings: Settings, replica: Database, group: Group
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    source.add(ITEM, NOTE)
    work_once(settings)
    audit(replica)
    with Writer(source) as writer:
        running, suspended = [group.start() for _ in range(3)], []
        for _ in range(25):
            time.sleep(chance.uniform(0, 2))
            match chance.choice(["kill", "terminate", "suspend", "wake", "start"]):
                case "kill" if running:
                    running.pop(chance.randrange(len(running))).kill()
                case "terminate" if running:
                    # A process that has just begun is ended by the signal.
                    assert running.pop(chance.randrange(len(running))).terminate() in (0, -signal.SIGTERM)
                case "suspend" if running:
                    suspended.append(running.pop(chance.randrange(len(running))))
                    suspended[-1].send(signal.SIGSTOP)
                case "wake" if suspended:
                    running.append(suspended.pop())
                    running[-1].send(signal.SIGCONT)
                case _ if len(running) < 4:
                    running.append(group.start())
        for process in suspended:
            process.send(signal.SIGCONT)
        running.append(group.start())
    until(lambda: writer.is_applied(replica), 120)
    writer.check(written(replica))
    assert all(process.runs for process in (*running, *suspended))


def test_a_worker_whose_partition_another_worker_has_moved_writes_nothing(
    replica: Database, settings: Settings
) -> None:
    layouts = RowLayouts()
    layouts.add(ITEM.version, ITEM)
    layout = layouts.find("public.item", ITEM.version)
    assert layout is not None
    partition: Partition = ("t", 0)

    def run(id: int, offset: int) -> Run:
        change = Change(layout, b'{"id":%d}' % id, b'{"id":%d,"n":%d}' % (id, id), offset, "1", 0, partition, offset)
        return Run([Transaction("1", offset, 0, [change], {partition: Position(offset + 1, offset)}, by_key=True)])

    options = settings.replicas[NAME]
    first, second = (GroupReplica("shop", NAME, options, layouts) for _ in range(2))
    alone = Replica("shop", NAME, options, layouts)
    for worker in (first, second):
        worker.partitions = frozenset([partition])
    try:
        first.join({"t": 1})
        first.prepare()
        second.join({"t": 1})
        second.prepare()
        first.apply(run(1, 0))
        with pytest.raises(ReplicaChangedError, match="topic t, partition 0"):
            second.apply(run(2, 0))
        with pytest.raises(ReplicaChangedError):
            second.compare()
        assert second.take_over()[1] == {partition: Position(1, 0)}
        second.apply(run(3, 1))
        _apply_at_the_same_time(replica, second, run)
        assert [row[0] for row in replica.rows("item", "id")] == [1, 3, 4]
        # A worker of whole transactions fences all of them, and the replica loads.
        row, reached = alone.take_over()
        assert (row.epoch, row.state, reached) == (2, "loading", {partition: Position(3, 2)})
        with pytest.raises(FencedError):
            second.apply(run(5, 3))
        with pytest.raises(FencedError):
            second.take_over()
        with pytest.raises(FencedError):
            second.follow_rows({})
        alone.apply(run(6, 3))
        first.join({"t": 1})
        first.apply(run(7, 4))
        with pytest.raises(FencedError):
            alone.apply(run(8, 5))
        with pytest.raises(DataError, match="topic t has 2 partitions now, and had 1 before"):
            first.join({"t": 2})
    finally:
        for one in (first, second, alone):
            one.close()
    assert [row[0] for row in replica.rows("item", "id")] == [1, 3, 4, 6, 7]


def _apply_at_the_same_time(replica: Database, second: GroupReplica, run: Callable[[int, int], Run]) -> None:
    """Let the second worker apply an event while another is in the middle of a transaction with the same event."""
    refused = threading.Event()

    def apply_late() -> None:
        with pytest.raises(ReplicaChangedError):
            second.apply(run(9, 2))
        refused.set()

    late = threading.Thread(target=apply_late)
    dialect = replica_dialect(replica.engine.dialect.name)
    dialect.configure(replica.engine)
    first = GroupPositions("shop", 1, dialect, {}, {("t", 0): Position(2, 1)})
    with replica.engine.connect() as connection, first.applying(connection, run(4, 2), None):
        late.start()
        connection.exec_driver_sql("INSERT INTO item (id, n) VALUES (4, 4)")
        # The second worker waits at the position, and locks no row.
        assert not refused.wait(0.3)
    late.join()
    assert refused.is_set()
    second.take_over()


def test_from_transactions_to_rows_and_back(source: Source, settings: Settings, replica: Database) -> None:
    by_transaction = settings.model_copy(
        update={"replicas": {NAME: settings.replicas[NAME].model_copy(update={"consistency": "transaction"})}}
    )
    source.add(ITEM, NOTE)
    source.transaction(("c", "item", {"id": 1, "n": 1}), ("c", "note", {"id": 1, "item_id": 1}))
    work_once(by_transaction)
    assert (replica.state(), len(replica.foreign_keys("note"))) == ("consistent", 1)
    with running_worker(settings) as first, running_worker(settings) as second:
        # Two workers meet a new column and a new table at once.
        source.add(WIDER, TAG)
        for n in range(2, 30):
            source.put(("c", "item", {"id": n, "n": 0, "more": n}), ("c", "tag", {"id": n}))
        source.transaction(("c", "note", {"id": 2, "item_id": 99}), ("u", "item", {"id": 1, "n": 0, "more": 5}))
        first.until(lambda _: len(replica.rows("item")) == 29 and len(replica.rows("note")) == 2)
        second.until(lambda _: len(replica.rows("tag")) == 28)
        # SQLite's foreign keys are part of the tables, and switched off.
        assert replica.engine.dialect.name == "sqlite" or replica.foreign_keys("note") == []
        until(lambda: sorted(map(len, replica_status(settings, NAME).worker_partitions)) == [6, 6])
        until(lambda: replica.state() == "following")
        status = replica_status(settings, NAME)
        assert (status.state, status.owner, status.records) == ("following", "a group of workers", 0)
        assert status.lsn == source.lsn - 1
    source.transaction(("d", "note", {"id": 2}), *(("u", "item", {"id": n, "n": n, "more": n}) for n in range(30)))
    work_once(by_transaction)
    assert (replica.state(), len(replica.foreign_keys("note"))) == ("consistent", 1)
    assert len(replica.rows("item", "n")) == 30


@pytest.mark.parametrize("replica_url", ["postgresql"], indirect=True)
def test_a_suspended_worker_that_the_server_waits_for_loses_its_session(settings: Settings, replica: Database) -> None:
    layouts = RowLayouts()
    layouts.add(ITEM.version, ITEM)
    partition: Partition = ("t", 0)
    worker = GroupReplica("shop", NAME, settings.replicas[NAME], layouts)
    worker.partitions = frozenset([partition])
    idle = Run([Transaction(None, 0, 0, [], {partition: Position(1, 1)}, by_key=True)])
    suspended = replica.engine.connect()
    try:
        worker.join({"t": 1})
        suspended.exec_driver_sql("UPDATE rowcast_position SET lsn = 7")
        # As in the middle of a COPY, the server would never end the session by itself.
        with pytest.raises(RetriableError):
            worker.apply(idle)
        worker.apply(idle)
        assert replica.rows("rowcast_position", "next_offset", "lsn") == [(1, 1)]
        with pytest.raises(sa.exc.OperationalError):
            suspended.commit()
    finally:
        suspended.invalidate()
        worker.close()


@pytest.mark.parametrize("replica_url", ["postgresql"], indirect=True)
def test_a_rebuild_replaces_the_tables_of_a_group_and_leads_on_after_added_partitions(
    source: Source, settings: Settings, replica: Database, kafka: Broker
) -> None:
    source.add(ITEM)
    source.transaction(*(("c", "item", {"id": n, "n": n}) for n in range(8)))
    with running_worker(settings) as worker:
        worker.until(lambda progress: progress.state == "following" and len(replica.rows("item")) == 8)
        replica.execute("UPDATE item SET n = 99 WHERE id = 3")
        rebuilt(settings)
        source.transaction(("c", "item", {"id": 8, "n": 8}))
        worker.until(lambda progress: progress.state == "following" and len(replica.rows("item")) == 9)
    assert replica.rows("item", "id", "n") == [(n, n) for n in range(9)]
    topic = table_topic(source.name, "public", "item")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_partitions([NewPartitions(topic, 6)])[topic].result(10)
    with pytest.raises(DataError, match=f"topic {topic} has 6 partitions now, and had 4 before"):
        work_once(settings)
    assert replica_status(settings, NAME).state == "stopped"
    rebuilt(settings)
    # A producer learns of new partitions within minutes, or at its start.
    source.__post_init__()
    source.transaction(*(("u", "item", {"id": n, "n": n + 1}) for n in range(9)))
    work_once(settings)
    assert replica.rows("item", "id", "n") == [(n, n + 1) for n in range(9)]
    assert len(replica.rows("rowcast_position")) >= 6


@ON_SQLITE
def test_partitions_added_to_a_topic_stop_the_workers_that_run(
    source: Source, settings: Settings, replica: Database, kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "_NEW_PARTITION_POLL_S", 0.2)
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    worker = RunningWorker(settings)
    worker.until(lambda progress: progress.state == "following")
    topic = table_topic(source.name, "public", "item")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_partitions([NewPartitions(topic, 5)])[topic].result(10)
    until(lambda: worker.error is not None)
    worker.stop()
    assert f"topic {topic} has 5 partitions now, and had 4 before" in f"{worker.error}"
    status = replica_status(settings, NAME)
    assert (status.state, f"{status.reason}".endswith("Rebuild the replica: rowcast rebuild copy")) == ("stopped", True)


@ON_SQLITE
def test_a_key_in_the_partition_of_another_number_of_partitions_stops_the_workers(
    source: Source, settings: Settings, replica: Database
) -> None:
    source.add(ITEM)
    source.transaction(*(("c", "item", {"id": n, "n": n}) for n in range(8)))
    work_once(settings)
    topic = table_topic(source.name, "public", "item")
    source.send(topic, source.envelope("u", ITEM, {"id": 1, "n": 2}, 50, "9", 1, 1), b'{"id":1}', partition=3)
    source.flush()
    with pytest.raises(DataError, match=r"lose the order of its events. Rebuild the replica: rowcast rebuild copy"):
        work_once(settings)
    assert replica.rows("item", "id", "n") == [(n, n) for n in range(8)]


@ON_SQLITE
def test_a_renamed_table_is_followed_once_its_former_name_is_applied(
    source: Source, settings: Settings, replica: Database
) -> None:
    former, present = shape("old_item", column("n")), shape("new_item", column("n"))
    renamed = replace(present, was=("public.old_item",))
    source.add(former)
    source.transaction(*(("c", "old_item", {"id": n, "n": n}) for n in range(4)))
    work_once(settings)
    source.add(renamed)
    source.transaction(*(("u", "new_item", {"id": n, "n": n + 1}) for n in range(4)))
    work_once(settings)
    assert replica.rows("new_item", "id", "n") == [(n, n + 1) for n in range(4)]
    source.transaction(("u", "old_item", {"id": 1, "n": 7}))
    with pytest.raises(DataError, match="changes under the former name are not applied yet"):
        work_once(settings)


@ON_SQLITE
def test_texts_as_keys_need_one_partition(kafka: Broker, source_name: str, settings: Settings) -> None:
    named = shape("named", column("name", "text", nullable=False), key=("name",))
    source = Source(kafka.bootstrap_servers, source_name, partitions=2)
    source.add(named)
    with pytest.raises(DataError, match=r"table public\.named has 2 partitions, and its primary key has other"):
        work_once(settings)


@ON_SQLITE
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_member_keeps_its_name_and_its_partitions(
    source: Source, settings: Settings, replica: Database, protocol: str
) -> None:
    of_protocol = {"group.protocol": protocol}
    if protocol == "consumer":
        kafka: dict[str, Any] = {"bootstrap.servers": settings.kafka["bootstrap.servers"], **of_protocol}
    else:
        kafka = settings.kafka | of_protocol
    named = settings.model_copy(
        update={"kafka": kafka, "replicas": {NAME: settings.replicas[NAME].model_copy(update={"member_name": "pod"})}}
    )
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    work_once(named)
    source.transaction(("u", "item", {"id": 1, "n": 2}))
    with running_worker(named) as worker:
        worker.until(lambda _: replica.rows("item", "n") == [(2,)])
    assert replica.rows("rowcast_replica", "owner", "epoch") == [("a group of workers", 1)]
    # Of two workers with one name, the broker refuses the earlier, or with the new protocol the later.
    workers = [RunningWorker(named)]
    workers[0].until(lambda progress: progress.active)
    workers.append(RunningWorker(named))
    until(lambda: any(isinstance(worker.error, ConfigurationError) for worker in workers))
    for worker in workers:
        worker.stop()
    [error] = [f"{worker.error}" for worker in workers if worker.error is not None]
    assert "another worker has joined the consumer group with the member_name 'pod'" in error


@ON_SQLITE
def test_workers_that_apply_once_end_together(source: Source, settings: Settings, replica: Database) -> None:
    source.add(ITEM, NOTE)
    for n in range(200):
        source.put(("c", "item", {"id": n, "n": n}), ("c", "note", {"id": n, "item_id": n}))
    source.flush()
    threads = [threading.Thread(target=work_once, args=(settings,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert (len(replica.rows("item")), len(replica.rows("note")), replica.state()) == (200, 200, "following")
