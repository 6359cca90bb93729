"""Existing rows arrive chunk by chunk, while the application writes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.orm import sessionmaker

from rowcast.consumer.verification.comparison import verify
from rowcast.producer import Capture
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.outbox.snapshot_requests import OPEN_STATES, SnapshotRequest, SnapshotRequests, SnapshotState
from rowcast.producer.relay import Relay
from rowcast.producer.relay.snapshots import chunk_reader, row_stream
from rowcast.producer.relay.snapshots.chunk_reader import ChunkReader
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.config.table_settings import TableSettings, read_table_settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.kafka.messages import ChangeEvent, TransactionEvent
from rowcast.shared.tables.shape_store import newest_shapes
from servers import Broker
from servers.guard import Guard
from support.command_line import environment, rowcast
from support.forked_python import ForkedPython
from support.relay.chunk_gate import Gate
from support.relay.threads import running_thread, wait_until
from support.relay.topic_reader import read_topics
from support.worker_runs import NAME, settings_for, work_once


class App:
    """Hold tables that get rows first, and then a capture."""

    def __init__(self, url: str, metadata: sa.MetaData, tables: dict[str, Any] | None = None) -> None:
        self.url, self.metadata, self._tables = url, metadata, tables or {}
        self.engine = open_engine(url, "primary")
        self.sessions = sessionmaker(self.engine)
        metadata.create_all(self.engine)

    def insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        with self.sessions.begin() as session:
            session.execute(sa.insert(self.metadata.tables[table]), rows)

    def capture(self) -> None:
        """Install the capture. A row in a separate table is its first change."""
        sa.Table("first", self.metadata, sa.Column("id", sa.Integer, primary_key=True))
        capture = Capture(self.metadata, source="shop", tables=self._tables)
        capture.install(self.sessions)
        self.metadata.create_all(self.engine)
        self.insert("first", [{"id": 1}])
        self.snapshots = SnapshotRequests(outbox_tables(self.metadata))

    def ask(self, *names: str, condition: str | None = None, chunk_rows: int = 3) -> list[int]:
        with self.engine.begin() as connection:
            return self.snapshots.request(connection, names, condition, chunk_rows)

    def asked(self) -> list[SnapshotRequest]:
        with self.engine.connect() as connection:
            return self.snapshots.all(connection)

    def change(self, states: tuple[SnapshotState, ...], to: SnapshotState) -> int:
        with self.engine.begin() as connection:
            return self.snapshots.change_state(connection, states, to)

    def open(self) -> bool:
        return any(s.state in OPEN_STATES for s in self.asked())


NewApp = Callable[..., App]


@pytest.fixture
def new_app(primary_url: str) -> Iterator[NewApp]:
    made: list[App] = []

    def make(metadata: sa.MetaData, tables: dict[str, Any] | None = None) -> App:
        made.append(App(primary_url, metadata, tables))
        return made[-1]

    yield make
    for app in made:
        app.engine.dispose()


@pytest.fixture
def settings(kafka: Broker, source_name: str, primary_url: str, new_database: Callable[[str], str]) -> Settings:
    # Only MariaDB can hold the times of MariaDB.
    replica = "mariadb" if primary_url.startswith(("mysql", "mariadb")) else "sqlite"
    made = settings_for(source_name, kafka.bootstrap_servers, new_database(replica), primary_url)
    return made.model_copy(update={"relay": RelaySettings(chunk_rows=3)})


on_sqlite = pytest.mark.parametrize("primary_url", ["sqlite"], indirect=True)


def items() -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table("item", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.Text))
    return metadata


def some(*ids: int) -> list[dict[str, Any]]:
    return [{"id": n, "note": f"before {n}"} for n in ids]


def events(settings: Settings) -> list[ChangeEvent]:
    servers = str(settings.kafka["bootstrap.servers"])
    stream = read_topics(servers, settings.source, "read_committed").stream
    return [e for e in stream if isinstance(e, ChangeEvent) and e.table != "first"]


def read(settings: Settings) -> list[int]:
    """Return the keys of the rows that snapshots have sent, in order."""
    return [e.key["id"] for e in events(settings) if e.op == "r"]


def keys(engine: str) -> dict[str, tuple[Any, list[Any]]]:
    """Return type and values for each kind of key. Some values sort or print in a special way."""
    moments = [datetime(2026, 10, 25, 0, 30, tzinfo=UTC) + timedelta(minutes=15 * n) for n in range(8)]
    kinds: dict[str, tuple[Any, list[Any]]] = {
        "k_uuid": (sa.Uuid(), [uuid.UUID(int=random.Random(n).getrandbits(128), version=4) for n in range(9)]),
        "k_text": (sa.String(20), ["b", "Ä", "zz", "a b", "é", "it's", "back\\slash", "%s", "ß", "😀", ":x", "A"]),
        "k_bytes": (sa.LargeBinary(8), [b"\0", b"\xff\xfe", b"a", b"\\", b"'", b"\0\0", b"a\0"]),
        "k_decimal": (sa.Numeric(10, 3), [Decimal(n) / 8 for n in range(-4, 5)]),
        "k_datetime": (sa.DateTime(), [m.replace(tzinfo=None, microsecond=n) for n, m in enumerate(moments)]),
        "k_big": (sa.BigInteger(), [-(2**63), -5, -1, 0, 1, 2**53 + 1, 2**63 - 1]),
        "k_float": (sa.Double(), [0.1, -0.1, 1e300, 5e-324, 1 / 3, -2.5]),
        "k_date": (sa.Date(), [m.date() + timedelta(days=n) for n, m in enumerate(moments)]),
    }
    if engine == "sqlite":
        kinds["k_text"] = (sa.String(20, collation="NOCASE"), kinds["k_text"][1])
        return kinds
    kinds["k_enum"] = (sa.Enum("z", "b", "a", "y", "c", name="kind"), ["z", "b", "a", "y", "c"])
    kinds["k_moment"] = (sa.DateTime(timezone=True), moments)
    if engine == "postgresql":
        kinds["k_text"] = (sa.String(20, collation="C"), kinds["k_text"][1])
        kinds["k_span"] = (sa.Interval(), [timedelta(days=n, microseconds=n) for n in range(-3, 4)])
        kinds["k_inet"] = (postgresql.INET(), ["10.0.0.9", "10.0.0.10", "::1", "9.1.1.1"])
        kinds["k_real"] = (sa.REAL(), [0.1, 0.2, 0.3, 1 / 3])
        return kinds
    kinds["k_text"] = (mysql.VARCHAR(20, collation="utf8mb4_bin"), kinds["k_text"][1])
    kinds["k_folded"] = (mysql.VARCHAR(20, collation="utf8mb4_unicode_ci"), ["b", "Ä", "zz", "it's", "C", "ß", "d "])
    kinds["k_bytes"] = (sa.VARBINARY(8), kinds["k_bytes"][1])
    kinds["k_datetime"] = (mysql.DATETIME(fsp=6), kinds["k_datetime"][1])
    kinds["k_moment"] = (mysql.TIMESTAMP(fsp=6), [m.replace(tzinfo=None) for m in moments])
    kinds["k_unsigned"] = (mysql.BIGINT(unsigned=True), [0, 1, 2**63, 2**64 - 1])
    kinds["k_real"] = (mysql.FLOAT(), [0.1, 0.2, 0.3, 1 / 3])
    kinds["k_time"] = (mysql.TIME(fsp=6), [timedelta(minutes=30 * n, microseconds=n) for n in range(-4, 5)])
    kinds["k_set"] = (mysql.SET("z", "b", "a"), [{"z"}, {"b"}, {"z", "b"}, {"a"}, {"a", "z"}])
    kinds["k_bit"] = (mysql.BIT(12), [0, 1, 9, 10, 255, 256, 2049])
    return kinds


@pytest.mark.shared_dialect
def test_keys_of_every_kind_are_gone_through_in_small_chunks(new_app: NewApp, settings: Settings) -> None:
    """Each kind alone, and as first and second part of a composite key: each row is read exactly once."""
    metadata = sa.MetaData()
    engine = sa.make_url(settings.require_primary().url.get_secret_value()).get_backend_name()
    engine = "mariadb" if engine == "mysql" else engine
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, (type_, values) in keys(engine).items():
        number: dict[str, Any] = {"type_": sa.Integer, "primary_key": True, "autoincrement": False}
        sa.Table(name, metadata, sa.Column("k", type_, primary_key=True, autoincrement=False))
        sa.Table(f"{name}_first", metadata, sa.Column("k", type_, primary_key=True), sa.Column("n", **number))
        sa.Table(f"{name}_second", metadata, sa.Column("n", **number), sa.Column("k", type_, primary_key=True))
        rows[name] = [{"k": value} for value in values]
        rows[f"{name}_first"] = rows[f"{name}_second"] = [{"k": v, "n": n} for v in values for n in (-1, 2)]
    app = App(settings.require_primary().url.get_secret_value(), metadata)
    for name, some_rows in rows.items():
        app.insert(name, some_rows)
    app.capture()
    Relay(settings, app.engine).run_once()
    counts = {s.table.rpartition(".")[2]: (s.state, s.rows_read, s.reason) for s in app.asked()}
    assert counts == {name: (SnapshotState.done, len(there), None) for name, there in rows.items()}
    # Compare the topics before a worker reads them, to find out whether relay or worker has lost a row.
    assert Counter(e.table for e in events(settings)) == {name: len(there) for name, there in rows.items()}
    work_once(settings)
    found = verify(settings, NAME)
    different = {t.table: (t.missing, t.extra, t.different) for t in found.tables if not t.equal}
    assert different == {}, [t.differences for t in found.tables]
    assert found.rows == sum(map(len, rows.values())) + 1
    app.engine.dispose()


@contextmanager
def writing(app: App, seed: int, highest: int) -> Iterator[None]:
    """Change, delete and insert rows in a thread for the length of the block.

    The thread pauses between its transactions, because an outbox that grows faster than the relay reads it shows
    nothing more.
    """
    stop, failed = threading.Event(), []
    item = app.metadata.tables["item"]
    rng = random.Random(seed)

    def write() -> None:
        try:
            for n in iter(lambda: None if stop.is_set() else rng.random(), None):
                key = rng.randint(1, highest)
                with app.sessions.begin() as session:
                    if n < 0.5:
                        session.execute(sa.update(item).where(item.c.id == key).values(note=f"changed {n}"))
                    elif n < 0.75:
                        session.execute(sa.delete(item).where(item.c.id == key))
                    elif session.execute(sa.select(item.c.id).where(item.c.id == key)).first() is None:
                        session.execute(sa.insert(item).values(id=key, note=f"new {n}"))
                    else:
                        free = sa.select(sa.func.max(item.c.id) + 1)
                        to = session.execute(free).scalar_one()
                        session.execute(sa.update(item).where(item.c.id == key).values(id=to))
                stop.wait(0.005)
        except Exception as error:  # noqa: BLE001  # the test's thread raises it
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


@pytest.mark.shared_dialect
def test_rows_arrive_while_the_application_writes(new_app: NewApp, settings: Settings) -> None:
    app = new_app(items())
    app.insert("item", some(*range(1, 401)))
    app.capture()
    slow = settings.model_copy(update={"relay": RelaySettings(chunk_rows=7)})
    with running_thread(Relay(slow, app.engine)) as relay:
        with writing(app, 1, 400):
            wait_until(lambda: bool(app.asked()) and not app.open(), 120)
        assert relay.ended_by is None
    Relay(slow, app.engine).run_once()
    work_once(slow)
    assert verify(slow, NAME).equal
    assert app.asked()[0].state is SnapshotState.done
    # For each key the events follow its history, and compaction keeps the last event.
    last = {e.key["id"]: e.after for e in events(slow)}
    with app.engine.connect() as connection:
        rows = {row.id: dict(row._mapping) for row in connection.execute(sa.select(app.metadata.tables["item"]))}
    assert {key: row for key, row in last.items() if row is not None} == rows


@pytest.mark.shared_dialect
def test_a_relay_killed_in_the_middle_goes_on_where_kafka_is(
    new_app: NewApp, settings: Settings, tmp_path: Path
) -> None:
    app = new_app(items())
    app.insert("item", some(*range(1, 2_001)))
    app.capture()
    place = configured(tmp_path, settings, "chunk_rows = 5\nlease_ms = 500\n")
    with writing(app, 2, 2_000), closing(Guard()) as guard:
        for part in (100, 300):
            relay = ForkedPython(
                ["-m", "rowcast.shared.cli", "relay"], place / "relay.log", guard, cwd=place, environment=environment()
            )
            try:
                wait_until(lambda part=part: bool(app.asked()) and app.asked()[0].rows_read >= part, 120)  # type: ignore[misc]
            finally:
                relay.kill()
            assert app.asked()[0].state is SnapshotState.running
    Relay(settings, app.engine).run_once()
    work_once(settings)
    assert verify(settings, NAME).equal
    (snapshot,) = app.asked()
    assert snapshot.state is SnapshotState.done
    assert snapshot.rows_read == len(read(settings))
    assert len(set(read(settings))) == len(read(settings)), "what Kafka has committed is not read again"


def configured(place: Path, settings: Settings, relay: str = "") -> Path:
    """Return a folder with a configuration for commands."""
    primary = settings.require_primary().url.get_secret_value()
    (place / "rowcast.toml").write_text(
        f'source = "{settings.source}"\n[kafka]\n"bootstrap.servers" = "{settings.kafka["bootstrap.servers"]}"\n'
        f"[primary]\nurl = {json.dumps(primary)}\n[relay]\n{relay}"
    )
    return place


@pytest.mark.shared_dialect
def test_only_the_rows_of_the_condition_are_read(new_app: NewApp, settings: Settings) -> None:
    app = new_app(items())
    app.insert("item", [*some(*range(1, 11)), {"id": 11, "note": "it's 50 %"}, {"id": 12, "note": None}])
    app.capture()
    never = settings.model_copy(update={"relay": RelaySettings(snapshot="never")})
    app.ask("item", condition="id > 4 AND id % 2 = 0 OR note LIKE 'it''s 50 %'", chunk_rows=2)
    Relay(never, app.engine).run_once()
    assert read(never) == [6, 8, 10, 11, 12]
    assert [(s.state, s.rows_read) for s in app.asked()] == [(SnapshotState.done, 5)]
    with app.engine.connect() as connection:
        before = sa.select(sa.func.count()).select_from(app.metadata.tables["rowcast_shape"])
        rows_before = app.metadata.tables["rowcast_shape"].c.rows_before
        assert connection.execute(before.where(rows_before)).scalar_one() == 1, "the others are still missing"
    Relay(settings, app.engine).run_once()
    assert [e.key["id"] for e in events(settings)][5:] == list(range(1, 13)), "and come by themselves"


@pytest.mark.shared_dialect
def test_a_chunk_looks_at_no_more_rows_than_it_has(new_app: NewApp) -> None:
    app = new_app(items())
    app.insert("item", some(*range(1, 8)))
    app.capture()
    with app.engine.connect() as connection:
        shape = newest_shapes(connection)[next(n for n in newest_shapes(connection) if "item" in n)]
        reader = ChunkReader(app.engine.dialect, shape, "id = 7", TableSettings())
        chunks = [reader.read(connection, None, 3)]
        while chunks[-1].last_key is not None:
            chunks.append(reader.read(connection, chunks[-1].last_key, 3))
    assert [len(chunk.changes) for chunk in chunks] == [0, 0, 1]


@pytest.mark.shared_dialect
@pytest.mark.parametrize("as_they_come", [True, False])
def test_a_chunk_ends_when_it_has_grown_large(
    new_app: NewApp, settings: Settings, monkeypatch: pytest.MonkeyPatch, as_they_come: bool
) -> None:
    """The chunk ends before the last row of its statement has come, and the remaining rows are dropped.

    Some versions of psycopg, and all other drivers, cannot stream rows as the server makes them.
    """
    monkeypatch.setattr(row_stream, "_can_stream_chunked", row_stream._can_stream_chunked and as_they_come)
    monkeypatch.setattr(chunk_reader, "CHUNK_BYTES", 200_000)
    app = new_app(items())
    app.insert("item", [{"id": n, "note": f"{n}" * 50_000} for n in range(1, 10)] + some(*range(10, 1_000)))
    app.capture()
    app.ask("item", chunk_rows=2_000)
    Relay(settings.model_copy(update={"relay": RelaySettings(snapshot="never")}), app.engine).run_once()
    assert read(settings) == list(range(1, 1_000))
    stream = read_topics(str(settings.kafka["bootstrap.servers"]), settings.source, "read_committed").stream
    ends = [e for e in stream if isinstance(e, TransactionEvent) and e.id.startswith("snapshot-") and e.status == "END"]
    # Two chunks of four large rows each, and a chunk with the ninth row and all small rows.
    assert len(ends) == 3
    assert [(s.state, s.rows_read, s.reason) for s in app.asked()] == [(SnapshotState.done, 999, None)]


@pytest.mark.shared_dialect
@pytest.mark.parametrize("condition", ["no_such_column = 1", "id = = 1", "no_such_function(id) = 1"])
def test_a_condition_that_cannot_be_fulfilled_fails_and_the_relay_goes_on(
    new_app: NewApp, settings: Settings, condition: str
) -> None:
    app = new_app(items())
    app.insert("item", some(1, 2))
    app.capture()
    app.ask("item", condition=condition)
    app.ask("item")
    with running_thread(Relay(settings, app.engine)) as relay:
        wait_until(lambda: not app.open())
        assert relay.ended_by is None
    failed, done = app.asked()
    assert failed.state is SnapshotState.failed
    assert failed.reason
    assert (done.state, done.rows_read) == (SnapshotState.done, 2)
    app.insert("item", some(3))
    Relay(settings, app.engine).run_once()
    assert [e.key["id"] for e in events(settings)] == [1, 2, 3]


@pytest.mark.shared_dialect
def test_paused_resumed_and_stopped(new_app: NewApp, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk that is being read is still published, and no further chunk."""
    app = new_app(items())
    app.insert("item", some(*range(1, 31)))
    app.capture()
    gate = Gate(monkeypatch)
    with running_thread(Relay(settings, app.engine)) as relay:
        for come in (2, 4):
            gate.let_through()
            gate.wait_for(come)
            assert app.change((SnapshotState.requested, SnapshotState.running), SnapshotState.paused) == 1
            gate.let_through()
            assert_nothing_is_read(app, gate, come)
            assert (app.asked()[0].state, app.asked()[0].rows_read) == (SnapshotState.paused, 3 * come)
            assert app.change((SnapshotState.paused,), SnapshotState.running) == 1
            gate.wait_for(come + 1)
        assert app.change(OPEN_STATES, SnapshotState.stopped) == 1
        gate.let_through()
        assert_nothing_is_read(app, gate, 5)
        assert relay.ended_by is None
    (stopped,) = app.asked()
    assert (stopped.state, stopped.rows_read) == (SnapshotState.stopped, 15)
    assert read(settings) == list(range(1, 16)), "each once, in order"


def assert_nothing_is_read(app: App, gate: Gate, come: int) -> None:
    """Check that no chunk is read, while the relay publishes later events and polls again."""
    for n in range(3):
        app.insert("item", some(100 * come + n))
        wait_until(lambda: gate.come > come or outbox_is_empty(app))
        assert gate.come == come


def outbox_is_empty(app: App) -> bool:
    with app.engine.connect() as connection:
        return connection.execute(sa.select(app.metadata.tables["rowcast_outbox"].c.id).limit(1)).first() is None


def kill(app: App, reading: sa.Connection) -> None:
    """End the connection on the server."""
    driver: Any = reading.connection.dbapi_connection
    with app.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_terminate_backend({driver.info.backend_pid:d})")
        else:
            connection.exec_driver_sql(f"KILL {driver.thread_id():d}")


def wait_no_longer_than(reading: sa.Connection) -> None:
    """Wait for a lock."""
    if reading.dialect.name == "postgresql":
        reading.exec_driver_sql("SET lock_timeout = '100ms'")
    else:
        reading.exec_driver_sql("SET SESSION lock_wait_timeout = 1")


on_servers = pytest.mark.parametrize("primary_url", ["postgresql", "mariadb"], indirect=True)


@contextmanager
def second_chunk(new_app: NewApp, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[App, Gate]]:
    """Hold a snapshot of ten rows before its second chunk. Afterwards each row is read once, whatever the block did."""
    app = new_app(items())
    app.insert("item", some(*range(1, 11)))
    app.capture()
    gate = Gate(monkeypatch)
    with running_thread(Relay(settings, app.engine)) as relay:
        gate.let_through()
        gate.wait_for(2)
        yield app, gate
        gate.let_through(10)
        wait_until(lambda: not app.open())
        assert relay.ended_by is None
    assert gate.failed == 1
    assert_all_is_read(app, settings, 10)


@on_servers
def test_a_connection_lost_while_a_chunk_is_read_fails_nothing(
    new_app: NewApp, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with second_chunk(new_app, settings, monkeypatch) as (app, gate):
        gate.before = lambda reading: kill(app, reading)


@on_servers
def test_a_lock_that_is_not_granted_while_a_chunk_is_read_fails_nothing(
    new_app: NewApp, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with second_chunk(new_app, settings, monkeypatch) as (app, gate):
        gate.before = wait_no_longer_than
        with app.engine.connect() as locking:
            mode = "TABLE item" if locking.dialect.name == "postgresql" else "TABLES item WRITE"
            locking.exec_driver_sql(f"LOCK {mode}")
            gate.let_through()
            wait_until(lambda: gate.failed == 1)
            # Locks of MySQL and MariaDB end with the connection, and not with the transaction.
            locking.invalidate()


def assert_all_is_read(app: App, settings: Settings, rows: int) -> None:
    """Check that each row comes once and in order."""
    assert [(s.state, s.rows_read, s.reason) for s in app.asked()] == [(SnapshotState.done, rows, None)]
    assert read(settings) == list(range(1, rows + 1))


PERSON: dict[str, Any] = {
    "where": "kind <> 'secret'",
    "columns": {
        "card": {"mask": "*"},
        "email": {"hash": "sha256", "salt": "pepper'%\\ü"},
        "diary": {"truncate": 3},
        "password": False,
    },
}


def test_only_what_leaves_is_read(new_app: NewApp, settings: Settings) -> None:
    metadata = sa.MetaData()
    texts = ("card", "email", "diary", "password", "kind")
    columns = [sa.Column(name, sa.String(80)) for name in texts]
    sa.Table(
        "person", metadata, sa.Column("id", sa.Integer, primary_key=True), *columns, sa.Column("b", sa.LargeBinary)
    )
    app = new_app(metadata, {"person": PERSON})
    row = dict.fromkeys(texts, "Käthe's") | {"b": b"\0\xff"}
    kinds = ("open", "secret", "open", None, "open", "open")
    app.insert("person", [{**row, "id": n, "kind": kind} for n, kind in enumerate(kinds, 1)])
    app.capture()
    salted = {"person": read_table_settings(PERSON, "person")}
    settings = settings.model_copy(update={"tables": salted})
    Relay(settings, app.engine).run_once()
    work_once(settings)
    assert read(settings) == [1, 3, 5, 6]
    after = events(settings)[0].after
    assert after is not None
    assert {n: after.get(n) for n in ("card", "diary", "password", "b")} == {
        "card": "*", "diary": "Kät", "password": None, "b": "AP8=",
    }  # fmt: skip
    assert len(after["email"]) == 64
    assert verify(settings, NAME).equal


@on_sqlite
def test_a_snapshot_without_the_salt_fails(new_app: NewApp, settings: Settings) -> None:
    metadata = sa.MetaData()
    sa.Table("person", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("email", sa.String(80)))
    app = new_app(metadata, {"person": {"columns": {"email": {"hash": "sha256", "salt": "s"}}}})
    app.insert("person", [{"id": 1, "email": "a"}])
    app.capture()
    Relay(settings, app.engine).run_once()
    (failed,) = app.asked()
    assert failed.state is SnapshotState.failed
    assert "salt" in str(failed.reason)


@on_sqlite
def test_a_column_that_is_added_meanwhile_is_in_the_rows_behind_it(new_app: NewApp, settings: Settings) -> None:
    """After an event of the new shape no event of the old shape comes, because it would remove the new values."""
    app = new_app(items())
    app.insert("item", some(*range(1, 1_001)))
    app.capture()
    with running_thread(Relay(settings, app.engine)):
        wait_until(lambda: bool(app.asked()) and app.asked()[0].rows_read > 0)
        migrating = open_engine(app.url, "primary", pooled=False)
        with migrating.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE item ADD COLUMN more TEXT")
            connection.exec_driver_sql("UPDATE item SET more = 'yes'")
        migrating.dispose()
        metadata = items()
        metadata.tables["item"].append_column(sa.Column("more", sa.Text))
        sessions = sessionmaker(app.engine)
        Capture(metadata, source="shop").install(sessions)
        with sessions.begin() as session:
            session.execute(sa.insert(metadata.tables["item"]).values(id=3_000, note="x", more="first"))
        wait_until(lambda: not app.open())
    seen = events(settings)
    first = next(n for n, e in enumerate(seen) if e.op == "c")
    assert any(e.op == "r" for e in seen[:first]), "some rows were read before"
    behind = [e.after for e in seen[first:] if e.op == "r"]
    assert behind, "and some after"
    assert all(row is not None and row.get("more") for row in behind)


@on_sqlite
@pytest.mark.parametrize(("mode", "by_itself"), [("initial", 1), ("when_needed", 1), ("never", 0)])
def test_whether_the_relay_asks_by_itself(new_app: NewApp, settings: Settings, mode: Any, by_itself: int) -> None:
    app = new_app(items())
    app.insert("item", some(1))
    app.capture()
    settings = settings.model_copy(update={"relay": RelaySettings(snapshot=mode)})
    for _ in range(2):
        Relay(settings, app.engine).run_once()
        assert len(app.asked()) == by_itself, "once"
        assert len(read(settings)) == by_itself
    # A Kafka without any topics of the source counts as another cluster.
    lost = settings.model_copy(update={"source": f"{settings.source}-new"})
    with app.engine.begin() as connection:
        connection.execute(sa.update(app.metadata.tables["rowcast_lease"]).values(source=lost.source))
    if mode != "when_needed":
        with pytest.raises(ConfigurationError, match="new or restored"):
            Relay(lost, app.engine).run_once()
        return
    Relay(lost, app.engine).run_once()
    assert [e.key["id"] for e in events(lost)] == [1]


@on_sqlite
def test_the_command_requests_a_snapshot_waits_and_prints_the_result(
    new_app: NewApp, settings: Settings, tmp_path: Path
) -> None:
    app = new_app(items())
    app.insert("item", some(*range(1, 51)))
    app.capture()
    place = configured(tmp_path, settings, 'snapshot = "never"\nchunk_rows = 5\n')

    def output_of(code: int, *arguments: str) -> str:
        done = rowcast(*arguments, cwd=place)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def status() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(rowcast("status", "--json", cwd=place).stdout)["snapshots"]
        return found

    assert "main.item: rows from before the capture" in output_of(1, "check")
    assert "no table 'nowhere' is captured (captured: main.first, main.item" in output_of(2, "snapshot", "nowhere")
    assert "--pause and --stop exclude each other" in output_of(2, "snapshot", "--pause", "--stop")
    output_of(1, "snapshot", "--pause")
    output_of(0, "snapshot", "item", "--no-wait", "--chunk-size", "7")
    assert "pause: 1 snapshots" in output_of(0, "snapshot", "--pause")
    assert status() == [{"table": "main.item", "state": "paused", "rows": 0, "reason": None}]
    Relay(settings.model_copy(update={"relay": RelaySettings(snapshot="never")}), app.engine).run_once()
    assert read(settings) == []
    output_of(0, "snapshot", "item", "--resume")
    assert "stop: 1 snapshots" in output_of(0, "snapshot", "--stop")
    output_of(0, "snapshot", "item", "--where", "nothing = 1", "--no-wait")
    process = subprocess.Popen(
        [sys.executable, "-m", "rowcast.shared.cli", "snapshot", "item"], cwd=place, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("no relay leads the source" in line for line in lines)
        relay = Relay(settings.model_copy(update={"relay": RelaySettings(snapshot="never")}), app.engine)
        with running_thread(relay):
            _, rest = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait(30)
    assert process.returncode == 0, rest
    assert "main.item: done, 50 rows" in rest
    # The later snapshot has read all rows, so the failed one needs no attention.
    assert status() == []
    output_of(0, "snapshot", "item", "--where", "nothing = 1", "--no-wait")
    relay.run_once()
    assert [(s["state"], s["rows"]) for s in status()] == [("failed", 0)]
    assert "nothing" in str(status()[0]["reason"])
    assert "stop: 2 snapshots" in output_of(0, "snapshot", "item", "--stop")
    assert status() == []
    assert "before the capture" not in rowcast("check", cwd=place).stdout


@on_sqlite
@pytest.mark.parametrize(("rows", "size"), [(300_000, 40), (300, 400_000)], ids=["many", "large"])
def test_memory_does_not_grow_with_the_table(
    new_app: NewApp, settings: Settings, tmp_path: Path, rows: int, size: int
) -> None:
    """Chunks are limited by number and by size. librdkafka also holds up to 64 MiB of unacknowledged messages."""
    app = new_app(items())
    app.insert("item", [{"id": n, "note": "x" * size} for n in range(1, rows + 1)])
    app.capture()

    def most(times: int) -> int:
        place = tmp_path / str(times)
        place.mkdir()
        configured(place, settings, 'snapshot = "never"\n')
        app.ask("item", condition=None if times else "id < 10", chunk_rows=2_000)
        log = place / "relay.log"
        with closing(Guard()) as guard:
            relay = ForkedPython(
                ["-m", "support.relay.measured_relay"], log, guard, cwd=place, environment=environment()
            )
            assert relay.wait(250) == 0, log.read_text()
        return int(log.read_text().split()[-1]) * 1024

    little = most(0)
    grown = most(1) - little
    assert app.asked()[-1].rows_read == rows
    assert grown < 110 * 2**20, f"{grown / 2**20:.0f} MiB more for {rows * size / 2**20:.0f} MiB of rows"
    print(f"{grown / 2**20:.0f} MiB")
