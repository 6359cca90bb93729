"""Measure the time from a commit to the visible row on the replica, at a steady rate of commits.

    python -m benchmarks.bench_latency PRIMARY_URL REPLICA_URL BOOTSTRAP [--rate 100] [--embedded-relay]

Relay and worker are processes as in production. The writer notes when each commit returned. An observer in a third
process queries the highest key of the replica as often as possible. All processes use the machine's monotonic clock.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import tempfile
import time
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path

import psycopg
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from benchmarks.harness import Base, Command, Order
from rowcast.producer import Capture, relay
from rowcast.shared.config.settings import load


def observe(url: str, last: int, results: Connection) -> None:
    """Send the time at which each key was first visible."""
    seen: list[float] = []
    deadline = time.monotonic() + 300
    query = f"SELECT coalesce(max(id), 0) FROM {Order.__tablename__}"
    # The observer uses the driver directly, because its frequent queries must take little of the measured machine.
    address = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as connection:
        results.send(None)
        while len(seen) <= last and time.monotonic() < deadline:
            row = connection.execute(query).fetchone()
            assert row is not None
            now = time.monotonic()
            seen.extend(now for _ in range(row[0] + 1 - len(seen)))
            time.sleep(0.001)
    results.send(seen)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("primary")
    parser.add_argument("replica")
    parser.add_argument("bootstrap")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=100.0, help="seconds at the same rate before")
    parser.add_argument(
        "--embedded-relay", action="store_true", help="the relay in the writing process, woken by commits"
    )
    arguments = parser.parse_args()
    source = f"bench-{uuid.uuid4().hex[:8]}"
    primary = sa.create_engine(arguments.primary)
    sessions = sessionmaker(primary)
    capture = Capture(Base.metadata, source=source)
    capture.install(sessions)
    Base.metadata.drop_all(primary)
    Base.metadata.create_all(primary)
    replica = sa.create_engine(arguments.replica)
    with replica.begin() as connection:
        for name in (Order.__tablename__, "rowcast_position", "rowcast_replica"):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS {name}"))

    def write(key: int) -> float:
        now = datetime.now(UTC)
        with sessions() as session:
            row = Order(id=key, customer_id=key, status="new", amount=Decimal("1.50"), note="note")
            row.created_at = row.updated_at = now
            session.add(row)
            session.commit()
        return time.monotonic()

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        config = Path(folder) / "rowcast.toml"
        config.write_text(
            f'source = "{source}"\n[kafka]\n"bootstrap.servers" = "{arguments.bootstrap}"\n'
            f'[primary]\nurl = "{arguments.primary}"\n[replicas.bench]\nurl = "{arguments.replica}"\n'
        )
        if arguments.embedded_relay:
            stack.enter_context(relay.running(load(config), capture))
        else:
            stack.enter_context(Command(config, "relay"))
        stack.enter_context(Command(config, "worker", "bench"))
        write(0)
        _wait_for_the_first_row(replica, folder)
        # A new broker is slow until the JVM has compiled the busy code.
        warm_up = round(arguments.rate * arguments.warm_up)
        count = warm_up + round(arguments.rate * arguments.seconds)
        here, there = multiprocessing.get_context("spawn").Pipe()
        observer = multiprocessing.get_context("spawn").Process(target=observe, args=(arguments.replica, count, there))
        observer.start()
        here.recv()
        committed = [0.0]
        start = time.monotonic()
        for key in range(1, count + 1):
            time.sleep(max(0.0, start + key / arguments.rate - time.monotonic()))
            committed.append(write(key))
        seen = here.recv()
        observer.join()
    delays = sorted(1000 * (seen[key] - committed[key]) for key in range(warm_up + 1, count + 1))
    shown = ", ".join(f"p{p} {delays[min(len(delays) - 1, len(delays) * p // 100)]:.1f} ms" for p in (50, 90, 99))
    print(
        f"commit -> visible, {arguments.rate:.0f} commits/s for {arguments.seconds:.0f} s, "
        f"relay {'in the application' if arguments.embedded_relay else 'in a process of its own'}: {shown}, "
        f"max {delays[-1]:.1f} ms, n = {len(delays)}"
    )


def _wait_for_the_first_row(replica: sa.Engine, folder: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with replica.connect() as connection:
            if sa.inspect(connection).has_table(Order.__tablename__):
                count = sa.text(f"SELECT count(*) FROM {Order.__tablename__}")
                if connection.execute(count).scalar_one() == 1:
                    return
        time.sleep(0.1)
    logs = "\n".join(log.read_text()[-2000:] for log in Path(folder).glob("*.log"))
    raise SystemExit(f"the first row did not arrive within 60 s\n{logs}")


if __name__ == "__main__":
    main()
