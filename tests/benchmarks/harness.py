"""Share the parts of the relay's benchmarks: an application with one table of 7 columns, the relay as a process, and a
reader that notes the time of each acknowledgement by Kafka.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path

import orjson
import sqlalchemy as sa
from confluent_kafka import Consumer, TopicPartition
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from rowcast.producer import Capture
from rowcast.shared.config.settings import Settings, load

_PATIENCE_S = 120.0
OWN_TABLES = ("rowcast_outbox", "rowcast_claim", "rowcast_lease")
"""The tables on the way of every event."""


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "bench_orders"
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    customer_id: Mapped[int] = mapped_column(sa.BigInteger)
    status: Mapped[str] = mapped_column(sa.Text)
    amount: Mapped[Decimal] = mapped_column(sa.Numeric(12, 2))
    note: Mapped[str] = mapped_column(sa.Text)
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))


class Probe(Base):
    """Map rows that show the time of a change beside further changes."""

    __tablename__ = "bench_probes"
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)


def values(key: int) -> dict[str, object]:
    """Return a row of ``Order``."""
    now = datetime.now(UTC)
    note = f"note {key:032x}"
    money = Decimal(key % 100_000) / 100
    return {
        "id": key, "customer_id": key, "status": "new", "amount": money, "note": note, "created_at": now,
        "updated_at": now,
    }  # fmt: skip


class Application:
    """Create new tables in the database at ``url``, for a new source.

    ``rows``: the number of orders from before the capture.
    """

    def __init__(self, url: str, bootstrap: str, folder: Path, rows: int = 0, **relay: object) -> None:
        self.source = f"bench-{uuid.uuid4().hex[:8]}"
        self.bootstrap = bootstrap
        self.engine = sa.create_engine(url)
        self.sessions = sessionmaker(self.engine)
        capture = Capture(Base.metadata, source=self.source)
        Base.metadata.drop_all(self.engine)
        Base.metadata.create_all(self.engine)
        with self.engine.begin() as connection:
            for start in range(0, rows, 10_000):
                keys = range(start, min(start + 10_000, rows))
                connection.execute(sa.insert(Order), [values(key) for key in keys])
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text(f"VACUUM ANALYZE {Order.__tablename__}"))
        capture.install(self.sessions)
        self.capture = capture
        self.config = folder / f"{self.source}.toml"
        options = "\n".join(f"{name} = {orjson.dumps(value).decode()}" for name, value in relay.items())
        self.config.write_text(
            f'source = "{self.source}"\n[kafka]\n"bootstrap.servers" = "{bootstrap}"\n'
            f'[primary]\nurl = "{url}"\n[relay]\n{options}\n'
        )

    @property
    def settings(self) -> Settings:
        return load(self.config)

    def topic(self, table: type[Base]) -> str:
        return f"{self.source}.public.{table.__tablename__}"

    def probe(self, key: int) -> float:
        """Commit one row. Return the monotonic time at which COMMIT returned."""
        with self.sessions.begin() as session:
            session.add(Probe(id=key))
        return time.monotonic()

    def scalar(self, query: str) -> int:
        with self.engine.connect() as connection:
            return int(connection.scalar(sa.text(query)) or 0)

    def backlog(self) -> int:
        """Return the number of rows in the outbox."""
        return self.scalar("SELECT count(*) FROM rowcast_outbox")

    def own_bytes(self) -> int:
        """Return the bytes on disk of the tables on the way of every event, including indexes."""
        return self.scalar("SELECT " + " + ".join(f"pg_total_relation_size('{name}')" for name in OWN_TABLES))

    def wait_until_published(self, seconds: float = _PATIENCE_S) -> None:
        deadline = time.monotonic() + seconds
        while self.backlog():
            if time.monotonic() > deadline:
                raise SystemExit(f"the outbox is not empty after {seconds:.0f} s")
            time.sleep(0.01)


@contextlib.contextmanager
def application(url: str, bootstrap: str, rows: int = 0, **relay: object) -> Iterator[Application]:
    with tempfile.TemporaryDirectory() as folder:
        made = Application(url, bootstrap, Path(folder), rows, **relay)
        try:
            yield made
        finally:
            made.engine.dispose()


class Command:
    """Run ``rowcast`` in a new process."""

    def __init__(self, config: Path, *arguments: str) -> None:
        with config.with_name(f"{arguments[0]}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rowcast.shared.cli", *arguments, "--config", str(config)],
                stdout=log, stderr=log,
            )  # fmt: skip

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self._process.kill()
        self._process.wait()

    def mib(self) -> float:
        """Return the resident memory of the process now."""
        return _status_mib(self._process.pid, "VmRSS")

    def peak_mib(self) -> float:
        """Return the peak resident memory of the process."""
        return _status_mib(self._process.pid, "VmHWM")


def worker_config(folder: str, source: str, bootstrap: str, name: str, url: str) -> Path:
    """Write the configuration of a worker with one replica. Return the file's path."""
    config = Path(folder) / "rowcast.toml"
    config.write_text(
        f'source = "{source}"\n[kafka]\n"bootstrap.servers" = "{bootstrap}"\n[replicas.{name}]\nurl = "{url}"\n'
    )
    return config


def time_command(config: Path, *arguments: str) -> float:
    """Run ``rowcast`` in a new process to its end. Return the seconds from the start of the process."""
    command = [sys.executable, "-m", "rowcast.shared.cli", *arguments, "--config", str(config)]
    began = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def ended_sessions_s(url: str) -> float | None:
    """Return the CPU seconds of all ended sessions of a PostgreSQL server on this machine, or None elsewhere."""
    if sa.make_url(url).get_backend_name() != "postgresql":
        return None
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        folder = connection.scalar(sa.text("SHOW data_directory"))
    engine.dispose()
    try:
        pid = int(Path(f"{folder}/postmaster.pid").read_text().split()[0])
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(times[13]) + int(times[14])) / os.sysconf("SC_CLK_TCK")


def _status_mib(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) / 1024


def _observe(bootstrap: str, topic: str, results: Connection) -> None:
    """Read up to the last key, and send the time at which each key was first seen.

    The parent process sends the last key. A reader of uncommitted messages sees only messages that the brokers have
    acknowledged.
    """
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "isolation.level": "read_uncommitted",
         "enable.auto.commit": False, "fetch.wait.max.ms": 100}
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, 0, 0)])
    results.send(None)
    seen: dict[int, float] = {}
    last: int | None = None
    deadline = float("inf")
    while (last is None or last not in seen) and time.monotonic() < deadline:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            seen.setdefault(orjson.loads(message.key() or b"")["id"], time.monotonic())
        if last is None and results.poll():
            last, deadline = results.recv(), time.monotonic() + _PATIENCE_S
    consumer.close()
    results.send(seen)


@contextlib.contextmanager
def observer(bootstrap: str, topic: str) -> Iterator[Connection]:
    """Start a process that reads an existing topic. The caller sends the last key, and receives the times by key."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_observe, args=(bootstrap, topic, there), daemon=True)
    process.start()
    here.recv()
    try:
        yield here
    finally:
        process.join(5)
        process.kill()


def percentiles(delays: list[float]) -> str:
    """Return the percentiles in milliseconds. ``delays``: seconds."""
    ordered = sorted(delays)
    shown = (f"p{p} {1000 * ordered[min(len(ordered) - 1, len(ordered) * p // 100)]:.1f}" for p in (50, 90, 99))
    return f"{', '.join(shown)}, max {1000 * ordered[-1]:.1f} ms (n = {len(ordered):,})"


def heading(text: str) -> None:
    """Print a heading with the time, because figures are valid only for one machine at a time."""
    print(f"{text}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", flush=True)
