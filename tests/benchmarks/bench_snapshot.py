"""Measure a snapshot of a large table, and its cost for a writing application.

    python -m benchmarks.bench_snapshot URL BOOTSTRAP [--rows N] [--seconds 10]

The first snapshot runs alone. Then the application commits as fast as possible before, during and after a second
snapshot, and the relay publishes the commits all the time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import threading
import time
from multiprocessing.synchronize import Event

import sqlalchemy as sa

from benchmarks.harness import Application, Command, Order, application, heading
from rowcast.producer import Capture
from rowcast.producer.cli.snapshot_client import SnapshotClient


def write(url: str, source: str, rows: int, counter: object, stop: Event) -> None:
    """Commit transactions of one update each, until ``stop`` is set."""
    from sqlalchemy.orm import sessionmaker

    from benchmarks.harness import Base

    engine = sa.create_engine(url)
    sessions = sessionmaker(engine)
    Capture(Base.metadata, source=source).install(sessions)
    key = 0
    while not stop.is_set():
        key = (key + 7_919) % rows
        with sessions.begin() as session:
            session.execute(sa.update(Order).where(Order.id == key).values(status="seen"))
        counter.value += 1  # type: ignore[attr-defined]  # a multiprocessing.Value
    engine.dispose()


def snapshot(requests: SnapshotClient, rows: int) -> float:
    """Return the duration of a snapshot in seconds."""
    began = time.monotonic()
    (done,) = requests.wait(requests.request([Order.__tablename__], None, 5_000), threading.Event(), lambda _: None)
    assert done.rows_read == rows, done
    return time.monotonic() - began


def measure(app: Application, url: str, rows: int, seconds: float) -> None:
    spawn = multiprocessing.get_context("spawn")
    counter, stop = spawn.Value("q", 0, lock=False), spawn.Event()
    writer = spawn.Process(target=write, args=(url, app.source, rows, counter, stop))
    with Command(app.config, "relay") as relay:
        # The outbox names a table only after a change in a table.
        app.probe(0)
        app.wait_until_published()
        requests = SnapshotClient(app.settings)
        # A new broker is slow until the JVM has compiled the busy code.
        snapshot(requests, rows)
        alone = snapshot(requests, rows)
        writer.start()
        while counter.value < 200:
            time.sleep(0.05)

        def commits_a_second() -> float:
            began, before = time.monotonic(), counter.value
            time.sleep(seconds)
            return float(counter.value - before) / (time.monotonic() - began)

        before = commits_a_second()
        count = counter.value
        took = snapshot(requests, rows)
        during = (counter.value - count) / took
        requests.close()
        after = commits_a_second()
        stop.set()
        writer.join()
        app.wait_until_published()
        peak = relay.peak_mib()
    without = (before + after) / 2
    print(
        f"  alone {rows / alone:,.0f} rows/s; {rows / took:,.0f} beside an application whose commits/s are "
        f"{during:,.0f} during, {before:,.0f} before, {after:,.0f} after: {during / without:.2f}x; "
        f"relay's peak {peak:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bootstrap")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of writing, before and after")
    options = parser.parse_args()
    heading(f"snapshot of {options.rows:,} rows")
    with application(options.url, options.bootstrap, options.rows, snapshot="never") as app:
        measure(app, options.url, options.rows, options.seconds)


if __name__ == "__main__":
    main()
