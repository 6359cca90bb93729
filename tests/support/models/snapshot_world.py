"""Play snapshots between writes, step by step: a primary, a Kafka in memory, and relays with crashes and pauses.

The primary is a real database, and the leader is the code of the relay. Kafka is played here, with the broker's
promises: the fencing by a successor aborts open transactions, and a commit is atomic with its marker and may happen
before the relay knows. The next act of a *plan* may happen before each step with an effect on database or Kafka.
"""

from __future__ import annotations

import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import orjson
import sqlalchemy as sa

from rowcast.producer.outbox.snapshot_requests import OPEN_STATES, SnapshotRequests, SnapshotState
from rowcast.producer.relay.claims.claim_table import Claim, ClaimedChunk, Claims
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.lease import LeaseRow
from rowcast.producer.relay.claims.outbox_reader import OutboxReader
from rowcast.producer.relay.kafka.marker import Markers
from rowcast.producer.relay.kafka.size_limits import SizeLimits
from rowcast.producer.relay.leader.work_loop import Leader
from rowcast.producer.relay.messages.envelopes import Message
from rowcast.producer.relay.snapshots.chunk_reader import Chunk, ChunkReader
from rowcast.producer.relay.snapshots.runner import SnapshotRunner
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.errors import FencedError, RowcastError
from rowcast.shared.kafka.messages import parse_change
from rowcast.shared.kafka.topic_names import table_topic, transaction_topic
from support.relay.epochs import take_epoch
from support.relay.primary import ITEMS, ORDERS, Primary, line

TABLES = (ORDERS, ITEMS)
PARTITIONS = 2
_SOURCE = "shop"
_MOST_STEPS = 1_000
_MOST_ASLEEP = 2
_MOST_HELD = 2

Key = tuple[str, int]
"""The name of the table, and the primary key."""


class CrashError(BaseException):
    """Crash a relay. The class is not an Exception, because nothing in the relay may catch the crash."""


@dataclass
class KafkaTransaction:
    state: Literal["open", "committed", "aborted"] = "open"
    marker: int = 0


@dataclass(frozen=True)
class Logged:
    topic: str
    key: bytes
    value: bytes | None
    transaction: KafkaTransaction


class MemoryBroker:
    """Hold the ``logs`` by topic and partition, with aborted and uncommitted messages."""

    def __init__(self) -> None:
        self.logs: dict[tuple[str, int], list[Logged]] = defaultdict(list)
        self.transactions: list[KafkaTransaction] = []
        self.producers: list[MemoryPublisher | None] = [None, None]

    def read(self, *, committed: bool) -> Iterator[tuple[tuple[str, int], Logged]]:
        for place, log in self.logs.items():
            for message in log:
                if not committed or message.transaction.state == "committed":
                    yield place, message


class MemoryPublisher:
    """Publish to a broker in memory, in place of ``Publisher``. The world decides about commits."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._broker = world.broker
        self._active = 0
        self._open: list[KafkaTransaction | None] = [None, None]
        self._committing: tuple[int, int] | None = None
        self._is_torn = False

    @property
    def begun_at(self) -> float | None:
        if self._open[self._active] is None:
            return None
        return 0.0 if self._world.hasty else time.monotonic()

    @property
    def committing(self) -> bool:
        return self._committing is not None

    def fence(self, check_epoch: Callable[[], object]) -> None:
        for lane in (0, 1):
            check_epoch()
            self._world.step()
            older = self._broker.producers[lane]
            if older is not None:
                older.lose(lane)
            self._broker.producers[lane] = self
        self._world.step()

    def lose(self, lane: int) -> None:
        """Abort the open transaction, because a successor has fenced the producer."""
        transaction = self._open[lane]
        if transaction is not None and transaction.state == "open":
            transaction.state = "aborted"

    def markers(self) -> Markers:
        return self.peek_markers()

    def peek_markers(self) -> Markers:
        sent = [(t.state == "committed", t.marker) for t in self._broker.transactions if t.marker]
        return Markers(max((lsn for done, lsn in sent if done), default=None), max((n for _, n in sent), default=None))

    def send(self, messages: Iterable[Message], lsn: int) -> None:
        self._raise_if_torn()
        self._is_torn = True
        for topic, value, key, partition, *_ in messages:
            # A step happens before and after each message. A crash there leaves only some of the messages.
            self._world.step()
            transaction = self._transaction()
            place = topic, zlib.crc32(key) % PARTITIONS if partition < 0 else partition
            self._broker.logs[place].append(Logged(topic, key, value, transaction))
        self._transaction().marker = lsn
        self._world.step()
        self._is_torn = False

    def push(self) -> bool:
        """Return True, because the broker in memory has no messages that linger."""
        return True

    def _transaction(self) -> KafkaTransaction:
        self._raise_if_fenced(self._active)
        transaction = self._open[self._active]
        if transaction is None:
            transaction = self._open[self._active] = KafkaTransaction()
            self._broker.transactions.append(transaction)
        return transaction

    def _raise_if_torn(self) -> None:
        """Raise FencedError if the relay slept in the middle of a send, because a successor has fenced the producer."""
        if self._is_torn:
            raise FencedError("it fell asleep while it sent")

    def _raise_if_fenced(self, lane: int) -> None:
        if self._broker.producers[lane] is not self:
            raise FencedError("another producer has the transactional.id")

    def begin_commit(self, lsn: int) -> None:
        self._raise_if_torn()
        if self._open[self._active] is None:
            return
        self._world.step()
        if self._committing is not None:
            self.kafka_commits()
            # The result of ``take_committed`` for the second transaction also covers the first.
            self._open[self._committing[0]] = None
        self._committing = self._active, lsn
        self._active = 1 - self._active

    def kafka_commits(self) -> None:
        """Commit at the broker. The relay does not know yet."""
        if self._committing is not None:
            lane, _ = self._committing
            self._raise_if_fenced(lane)
            transaction = self._open[lane]
            assert transaction is not None
            transaction.state = "committed"

    def take_committed(self, *, wait: bool = False) -> int | None:
        if self._committing is None or not (wait or self._world.quick):
            return None
        self._world.step()
        self.kafka_commits()
        self._world.step()
        lane, lsn = self._committing
        self._committing = None
        self._open[lane] = None
        return lsn


class _NoTopics:
    limits = SizeLimits({})

    def ensure_own(self, others: Iterable[str], renew_lease: Callable[[], None]) -> None:
        pass

    def ensure(self, names: Iterable[str], renew_lease: Callable[[], None]) -> None:
        pass


@dataclass(frozen=True)
class Put:
    """Insert the row, or update an existing row."""

    table: int
    key: int


@dataclass(frozen=True)
class Delete:
    table: int
    key: int


@dataclass(frozen=True)
class Move:
    """Change the key of the row, unless another row has the new key."""

    table: int
    key: int
    to: int


@dataclass(frozen=True)
class Write:
    """Write in one transaction.

    ``apart``: each change has a separate outbox row. ``held``: the transaction stays open after its writes, until a
    later act commits the transaction or rolls back. Only on engines with concurrent write transactions.
    """

    changes: Sequence[Put | Delete | Move]
    apart: bool
    held: bool = False


@dataclass(frozen=True)
class Request:
    table: int
    chunk_rows: int


@dataclass(frozen=True)
class Become:
    """Set how quickly the relay and Kafka commit."""

    hasty: bool
    quick: bool


Word = Literal["crash", "sleep", "wake", "pause", "resume", "stop", "commit", "roll back", "kafka commits"]
Act = Write | Request | Become | Word
BEFORE_A_CHUNK = 40
Plan = Sequence[tuple[int, Act]]
"""Pairs of a number of steps and the act to follow afterwards.

``BEFORE_A_CHUNK``: the act happens sooner if the relay has opened the snapshot for a chunk and reads the rows next.
"""


@dataclass(frozen=True)
class Held:
    """Hold an open transaction. ``before``: the number of states of each changed row before the transaction."""

    connection: sa.Connection
    before: dict[Key, int]


@dataclass
class Relay:
    connections: Connections
    publisher: MemoryPublisher
    leader: Leader
    leads: bool = False


LeaderType = Callable[..., Leader]

PlayedWorld = Callable[[Plan, int, int], None]
"""Play a plan, with the number of rows in a claim and the number of rows in a chunk."""


class World:
    """Play a plan, and check what readers see.

    ``history``: all states of each row in order, None for a missing row. ``unlogged``: the number of states from before
    the capture.
    """

    def __init__(self, primary: Primary, plan: Plan, settings: RelaySettings, leader: LeaderType) -> None:
        self.primary = primary
        self.broker = MemoryBroker()
        self.hasty = self.quick = False
        self.history: dict[Key, list[str | None]] = defaultdict(list)
        self.unlogged: dict[Key, int] = {}
        self.chunks: dict[tuple[int, str | None], Chunk] = {}
        self._plan = list(reversed(plan))
        self._left = self._gap = self._plan[-1][0] if self._plan else 0
        self._settings = settings
        self._new_leader = leader
        self._snapshots = SnapshotRequests(primary.tables)
        self._lite = primary.engine.dialect.name == "sqlite"
        # On MariaDB, REPEATABLE READ would lock gaps into which a concurrent transaction of the plan may insert.
        isolation = {} if self._lite else {"isolation_level": "READ COMMITTED"}
        self._writers = primary.engine.execution_options(**isolation)
        self._relay: Relay | None = None
        self._sleeping: list[Relay] = []
        self._held: list[Held] = []
        self._stopped: dict[int, set[str]] = {}
        self._at_rest = False
        self._version = 0
        self._transactions = 0
        self._make_tables()

    def _make_tables(self) -> None:
        self.primary.add_shapes(*TABLES)
        with self.primary.engine.begin() as connection:
            for shape in TABLES:
                columns = "id INTEGER PRIMARY KEY, note VARCHAR(20) NOT NULL"
                connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {shape.name} ({columns})")
            connection.execute(sa.update(self.primary.tables.shape).values(rows_before=True))
            for table, key in ((0, 1), (0, 2), (0, 4), (0, 5), (1, 2), (1, 3)):
                self._put(connection, table, key)
        self.unlogged = {key: len(states) for key, states in self.history.items()}

    # Acts of the plan.

    def step(self, *, reading: bool = False) -> None:
        """Let the next act happen if the act is due. ``reading``: the relay reads a chunk next."""
        if self._at_rest:
            return
        self._left -= 1
        while self._plan and (self._left < 0 or (reading and self._gap == BEFORE_A_CHUNK)):
            _, act = self._plan.pop()
            self._left = self._gap = self._plan[-1][0] if self._plan else 0
            self._at_rest = True
            try:
                self._act(act)
            finally:
                self._at_rest = False

    def _act(self, act: Act) -> None:
        match act:
            case Write():
                self._write(act)
            case Request(table, chunk_rows):
                with self.primary.engine.begin() as connection:
                    self._snapshots.request(connection, [TABLES[table].name], None, chunk_rows)
            case Become(hasty, quick):
                self.hasty, self.quick = hasty, quick
            case "crash" | "sleep" if self._relay is not None:
                if act == "sleep" and len(self._sleeping) < _MOST_ASLEEP:
                    self._sleeping.append(self._relay)
                raise CrashError
            case "wake":
                self._wake()
            case "pause":
                self._change((SnapshotState.requested, SnapshotState.running), SnapshotState.paused)
            case "resume":
                self._change((SnapshotState.paused,), SnapshotState.running)
            case "stop":
                self._stop()
            case "commit" | "roll back" if self._held:
                self._end(self._held.pop(0), commits=act == "commit")
            case "kafka commits" if self._relay is not None:
                self._relay.publisher.kafka_commits()

    def _change(self, states: Sequence[SnapshotState], to: SnapshotState) -> None:
        with self.primary.engine.begin() as connection:
            self._snapshots.change_state(connection, states, to)

    def _stop(self) -> None:
        """Stop the first open snapshot."""
        with self.primary.engine.begin() as connection:
            going = [s.id for s in self._snapshots.all(connection) if s.state in OPEN_STATES][:1]
            if going:
                self._snapshots.change_state(connection, OPEN_STATES, SnapshotState.stopped, going)
        self._stopped |= {id_: self._sent_of(id_) for id_ in going}

    def _sent_of(self, snapshot: int) -> set[str]:
        """Return the names of the snapshot's chunks that were sent, committed or not."""
        topic, own = transaction_topic(_SOURCE), f"snapshot-{snapshot}-"
        logged = [m for _, m in self.broker.read(committed=False) if m.topic == topic]
        names = {orjson.loads(message.key)["id"] for message in logged}
        return {name for name in names if name.startswith(own)}

    def _wake(self) -> None:
        """Wake the sleeping relays. Each relay then notices the fencing."""
        for relay in self._sleeping:
            try:
                if not relay.leads:
                    relay.leader.take_over()
                relay.leader.work()
                relay.leader.commit()
            except RowcastError:
                # A successor has fenced the relay, or the rows have gone.
                pass
            relay.connections.close()
        self._sleeping.clear()

    def _write(self, write: Write) -> None:
        states = {key: len(states) for key, states in self.history.items()}
        connection = self._writers.connect()
        lines = [line for change in write.changes for line in self._changed(connection, change)]
        if lines:
            self._transactions += 1
            rows = lines if write.apart else ["".join(lines)]
            for n, changes in enumerate(rows, 1):
                row = {"tx": f"t{self._transactions}", "ts_ms": 1, "complete": n == len(rows), "changes": changes}
                connection.execute(sa.insert(self.primary.tables.outbox), row)
        before = {key: states.get(key, 0) for key, now in self.history.items() if len(now) != states.get(key, 0)}
        held = Held(connection, before)
        if write.held and before and not self._lite and len(self._held) < _MOST_HELD:
            self._held.append(held)
        else:
            self._end(held, commits=True)

    def _end(self, held: Held, *, commits: bool) -> None:
        if commits:
            held.connection.commit()
        else:
            held.connection.rollback()
            for key, states in held.before.items():
                del self.history[key][states:]
        held.connection.close()

    def _is_locked(self, table: int, *keys: int) -> bool:
        """Return whether an open transaction has changed a row with one of the keys.

        A write to the row would wait for ever.
        """
        return any((TABLES[table].name, key) in held.before for held in self._held for key in keys)

    def _changed(self, connection: sa.Connection, change: Put | Delete | Move) -> list[str]:
        shape = TABLES[change.table]
        states = self.history[shape.name, change.key]
        there = bool(states) and states[-1] is not None
        if self._is_locked(change.table, change.key, *([change.to] if isinstance(change, Move) else ())):
            return []
        if isinstance(change, Put):
            return [line(shape, "u" if there else "c", change.key, self._put(connection, change.table, change.key))]
        if not there:
            return []
        if isinstance(change, Move):
            others = self.history[shape.name, change.to]
            if others and others[-1] is not None:
                return []
        connection.exec_driver_sql(f"DELETE FROM {shape.name} WHERE id = {change.key:d}")
        states.append(None)
        gone = [line(shape, "d", change.key)]
        if isinstance(change, Delete):
            return gone
        return [*gone, line(shape, "c", change.to, self._put(connection, change.table, change.to))]

    def _put(self, connection: sa.Connection, table: int, key: int) -> str:
        self._version += 1
        note, name = f"v{self._version}", TABLES[table].name
        states = self.history[name, key]
        if states and states[-1] is not None:
            statement = f"UPDATE {name} SET note = :note WHERE id = :id"
        else:
            statement = f"INSERT INTO {name} (id, note) VALUES (:id, :note)"
        connection.execute(sa.text(statement), {"id": key, "note": note})
        states.append(note)
        return note

    # Relays.

    def run(self) -> None:
        """Play the plan, and continue until everything is published and every snapshot is done."""
        try:
            while self._plan:
                self._work()
            self.hasty = self.quick = True
            # Sleeping relays have a successor by now. They slept within a step, and do not continue.
            self._work()
            self._wake()
            while self._held:
                self._end(self._held.pop(0), commits=True)
            self._change((SnapshotState.paused,), SnapshotState.running)
            self._ask_again()
            for _ in range(_MOST_STEPS):
                if not self._work() and not self._open_snapshots():
                    break
            else:
                raise AssertionError("it does not come to an end")
            assert self._relay is not None
            self._relay.leader.finish()
        finally:
            for relay in (self._relay, *self._sleeping):
                if relay is not None:
                    relay.connections.close()
            for held in self._held:
                held.connection.close()

    def _ask_again(self) -> None:
        """Request the stopped snapshots again, because all rows must be published in the end."""
        with self.primary.engine.begin() as connection:
            stopped = [s.table for s in self._snapshots.all(connection) if s.state is SnapshotState.stopped]
            if stopped:
                self._snapshots.request(connection, stopped, None, 3)

    def _open_snapshots(self) -> bool:
        with self.primary.engine.connect() as connection:
            return any(s.state in OPEN_STATES for s in self._snapshots.all(connection))

    def _work(self) -> bool:
        """Let the leader work, or start a new leader if no relay leads."""
        try:
            if self._relay is None:
                self._relay = self._new_relay()
                self._relay.leader.take_over()
                self._relay.leads = True
            busy = self._relay.leader.work()
            self.step()
        except CrashError:
            assert self._relay is not None
            if self._relay not in self._sleeping:
                self._relay.connections.close()
            self._relay = None
            return True
        return busy

    def _new_relay(self) -> Relay:
        with self.primary.engine.begin() as connection:
            connection.execute(sa.update(self.primary.tables.lease).values(expires_ms=0))
        connections = Connections(self.primary.engine)
        epoch = take_epoch(connections, self.primary, self._settings)
        publisher = MemoryPublisher(self)
        leader = self._new_leader(epoch, publisher, _NoTopics(), lambda _: None)
        return Relay(connections, publisher, leader)

    # Checks of the readers.

    def check(self) -> None:
        """Check readers, compaction and the recorded progress of snapshots.

        Raises AssertionError if a reader has seen a wrong state, or missed a state, or if the recorded progress differs
        from the sent rows.
        """
        self.check_readers()
        self._check_compacted()
        self._check_progress()
        assert self.primary.ids() == []
        assert self.primary.claims() == 0

    def check_readers(self) -> None:
        """Raise AssertionError if a reader has seen a wrong state, or missed a state."""
        for committed in (True, False):
            who = "a reader of committed data" if committed else "a worker"
            seen = self._seen_by_reader(committed=committed)
            for key in self.history.keys() | seen.keys():
                self._check_row(who, key, seen.get(key, []))

    def _seen_by_reader(self, *, committed: bool) -> dict[Key, list[tuple[str, str | None]]]:
        """Return operation and state of each event of each row. Workers read uncommitted events with the lsn rule."""
        seen: dict[Key, list[tuple[str, str | None]]] = defaultdict(list)
        highest: dict[tuple[str, int], int] = defaultdict(int)
        topics = {table_topic(_SOURCE, shape.schema, shape.name): shape.name for shape in TABLES}
        for place, message in self.broker.read(committed=committed):
            if message.topic not in topics or message.value is None:
                continue
            event = parse_change(message.key, message.value)
            if event.lsn <= highest[place]:
                assert not committed, f"lsn {event.lsn} after {highest[place]}, and committed"
                continue
            highest[place] = event.lsn
            state = None if event.after is None else event.after["note"]
            seen[topics[message.topic], event.key["id"]].append((event.op, state))
        return seen

    def _check_row(self, who: str, key: Key, seen: list[tuple[str, str | None]]) -> None:
        """Check that changes come once and in order, and that a chunk's row fits the changes before the chunk."""
        history = self.history.get(key, [])
        what = f"{who} has seen {seen} of {key}, and the states were {history}"
        known = self.unlogged.get(key, 0)
        for op, state in seen:
            if op == "r":
                assert known, f"ahead of its changes: {what}"
                assert state == history[known - 1], f"not as its changes have left it: {what}"
            else:
                assert state == history[known], f"not every change once and in order: {what}"
                known += 1
        assert known == len(history), f"not every change: {what}"
        assert seen or not history or history[-1] is None, f"never: {what}"

    def _check_compacted(self) -> None:
        last: dict[tuple[str, bytes], bytes | None] = {}
        for _, message in self.broker.read(committed=True):
            last[message.topic, message.key] = message.value
        with self.primary.engine.connect() as connection:
            for shape in TABLES:
                topic = table_topic(_SOURCE, shape.schema, shape.name)
                kept = [orjson.loads(v)["after"] for (t, _), v in last.items() if t == topic and v is not None]
                rows = connection.exec_driver_sql(f"SELECT id, note FROM {shape.name} ORDER BY id").all()
                assert sorted((row["id"], row["note"]) for row in kept) == [tuple(row) for row in rows], "compaction"

    def _check_progress(self) -> None:
        """Compare ``rows_read`` with the number of rows in Kafka."""
        reads = sum(
            message.value is not None and b'"op":"r"' in message.value
            for _, message in self.broker.read(committed=True)
        )
        with self.primary.engine.connect() as connection:
            made = self._snapshots.all(connection)
            before = connection.execute(sa.select(self.primary.tables.shape.c.rows_before)).scalars().all()
        assert {s.state for s in made} - {SnapshotState.stopped} == {SnapshotState.done}
        assert {s.id for s in made if s.state is SnapshotState.stopped} == self._stopped.keys()
        for id_, sent in self._stopped.items():
            # The stop may have found one chunk on the way.
            assert len(self._sent_of(id_) - sent) <= 1, f"snapshot {id_} goes on after it was stopped"
        assert sum(s.rows_read for s in made) == reads
        assert not any(before)


@contextmanager
def steps_of(world: World) -> Iterator[None]:
    """Let an act happen before and after each of these calls."""

    def around(owner: type, name: str) -> Any:
        original = getattr(owner, name)

        def stepping(*args: Any, **named: Any) -> Any:
            world.step(reading=owner is ChunkReader)
            result = original(*args, **named)
            world.step()
            return result

        return patch.object(owner, name, stepping)

    with ExitStack() as stack:
        for owner, name in (
            (Claims, "_write"), (Claims, "drop_chunks"), (Claims, "_read_recorded"), (LeaseRow, "read"),
            (OutboxReader, "heads"), (OutboxReader, "rows"), (ChunkReader, "read"), (SnapshotRunner, "due"),
        ):  # fmt: skip
            stack.enter_context(around(owner, name))
        stack.enter_context(patch("rowcast.producer.relay.snapshots.runner._POLL_REQUESTS_S", 0))
        yield


def play(primary: Primary, plan: Plan, claim_rows: int, chunk_rows: int, leader: LeaderType) -> None:
    """Play one world from beginning to end, in a database without rows.

    Raises AssertionError like ``World.check``, or like ``World.check_readers`` for a leader without a rule.
    """
    settings = RelaySettings(
        claim_rows=claim_rows, chunk_rows=chunk_rows, kafka_transaction_ms=30_000, lease_ms=600_000
    )
    world = World(primary, plan, settings, leader)
    with steps_of(world):
        world.run()
    if leader is Leader:
        world.check()
    else:
        world.check_readers()


def worlds_in(primary: Primary, leader: LeaderType) -> PlayedWorld:
    """Return a function that plays worlds one after the other in the same database.

    A new database for each world would take longer, because its engine compiles every statement again.
    """

    def played(plan: Plan, claim_rows: int, chunk_rows: int) -> None:
        _empty(primary)
        play(primary, plan, claim_rows, chunk_rows, leader)

    return played


def _empty(primary: Primary) -> None:
    names = [shape.name for shape in TABLES if sa.inspect(primary.engine).has_table(shape.name)]
    with primary.engine.begin() as connection:
        for name in (*names, *(table.name for table in primary.tables)):
            connection.exec_driver_sql(f"DELETE FROM {name}")


# Leaders, each without one of the rules.


class ReadsLater(Leader):
    """Read the chunk at a later moment than the outbox."""

    def _publish_chunk(self) -> int:
        reader = self._connections.reader
        with patch.object(SnapshotRunner, "read_chunk", _reading(reader)):
            return super()._publish_chunk()


def _reading(other: sa.Connection) -> Any:
    original = SnapshotRunner.read_chunk
    return lambda this, _connection: original(this, other)


class ReadsEarlier(Leader):
    """Publish rows that were committed after the moment of the chunk before the chunk."""

    def _publish_next(self, outbox: OutboxReader, claimed: Any) -> int:
        return super()._publish_next(self._outbox, set(self._claims.claimed))

    def _publish_chunk(self) -> int:
        original = OutboxReader.is_sealed

        def look(this: OutboxReader) -> bool:
            this.heads(1, range(0), 0)
            return original(this)

        with patch.object(OutboxReader, "is_sealed", look):
            return super()._publish_chunk()


class ChunkFirst(Leader):
    """Publish the chunk before the events visible at its moment."""

    def _publish_next(self, outbox: OutboxReader, claimed: Any) -> int:
        return super()._publish_next(outbox, claimed) if outbox is self._outbox else 0


class SendsChunksAgain(Leader):
    """Remember the chunks of crashed relays."""

    sent: dict[tuple[int, str | None], Chunk]

    def _remembering(self) -> Any:
        original = SnapshotRunner.begin_claim

        def begin_claim(this: SnapshotRunner, chunk: Chunk) -> ClaimedChunk:
            made = original(this, chunk)
            self.sent[made.snapshot, made.last_key] = chunk
            return made

        return patch.object(SnapshotRunner, "begin_claim", begin_claim)

    def _publish_chunk(self) -> int:
        with self._remembering():
            return super()._publish_chunk()


class OldRows(SendsChunksAgain):
    """Send the rows read by the predecessor, after the recorded claims."""

    def take_over(self) -> None:
        dropped: list[Claim] = []
        original = Claims.drop_chunks

        def drop(this: Claims) -> None:
            dropped.extend(claim for claim in this.pending if claim.chunk is not None)
            original(this)

        with patch.object(Claims, "drop_chunks", drop):
            super().take_over()
        for claim in dropped:
            assert claim.chunk is not None
            chunk = self.sent[claim.chunk.snapshot, claim.chunk.last_key]
            again = self._claims.record([], len(chunk.changes) + 2, None, claim.chunk)
            self._publisher.send(self._envelopes.chunk_messages(again, chunk.changes, 1), again.last_lsn)
            self._sender.lsn = again.last_lsn


class OldLsns(SendsChunksAgain):
    """Read the rows again, and send them under the lsns claimed by the predecessor."""

    def take_over(self) -> None:
        with patch.object(Claims, "drop_chunks", lambda this: None):
            super().take_over()

    def _send(self, claim: Claim, rows: Any) -> None:
        if claim.chunk is None:
            super()._send(claim, rows)
            return
        changes = self._as_they_are_now(self.sent[claim.chunk.snapshot, claim.chunk.last_key])
        self._publisher.send(self._envelopes.chunk_messages(claim, changes, 1), claim.last_lsn)
        self._sender.lsn = claim.last_lsn

    def _as_they_are_now(self, chunk: Chunk) -> list[Any]:
        changes = []
        for head, key, image, before in chunk.changes:
            name = head.table.partition(".")[2]
            note = self._connections.reader.execute(
                sa.text(f"SELECT note FROM {name} WHERE id = :id"), orjson.loads(key)
            ).scalar_one_or_none()
            # A deleted row keeps its place, because the claim has an lsn for it.
            now = image if note is None else orjson.dumps({**orjson.loads(key), "note": note})
            changes.append((head, key, now, before))
        return changes
