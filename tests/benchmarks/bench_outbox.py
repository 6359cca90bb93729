"""Send millions of events through the outbox. The tables must stay small, and the latency must stay low.

    python -m benchmarks.bench_outbox URL BOOTSTRAP [--events 10000000] [--rate 15000] [--rows 1000] [--every 30]

Each transaction of the application updates --rows rows, at an even rate of events. In addition, the application inserts
a single row ten times a second. The time of the single row from COMMIT to Kafka is the latency. With --old-snapshot, a
database snapshot from before the first event stays open until the end. VACUUM then cannot remove the rows deleted by
the relay.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import sqlalchemy as sa

from benchmarks.harness import Application, Command, Order, Probe, application, heading, observer, percentiles

ROWS = 10_000


class Probes:
    """Insert a single row ten times a second, in a thread."""

    def __init__(self, app: Application) -> None:
        self.committed: dict[int, float] = {}
        self._app = app
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            key = len(self.committed) + 1
            self.committed[key] = self._app.probe(key)

    def end(self, reader: Connection) -> dict[int, float]:
        """Stop, and return the time at which each row was in Kafka."""
        self._stop.set()
        self._thread.join()
        reader.send(len(self.committed))
        seen: dict[int, float] = reader.recv()
        return seen


@contextlib.contextmanager
def old_snapshot(app: Application) -> Iterator[None]:
    with app.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(sa.text("SELECT count(*) FROM rowcast_outbox"))
        yield


def run(app: Application, events: int, rate: float, rows: int, every: float) -> None:
    with Command(app.config, "relay") as relay:
        app.probe(0)
        app.wait_until_published()
        with observer(app.bootstrap, app.topic(Probe)) as reader:
            probes = Probes(app)
            start = time.monotonic()
            shown = [start]
            sizes: list[int] = []
            print("   seconds      events   outbox rows   tables MiB   relay MiB", flush=True)
            for n in range(events // rows):
                time.sleep(max(0.0, start + n * rows / rate - time.monotonic()))
                first = n * rows % ROWS
                with app.sessions.begin() as session:
                    chosen = Order.id.between(first, first + rows - 1)
                    session.execute(sa.update(Order).where(chosen).values(customer_id=n))
                if time.monotonic() - shown[-1] >= every:
                    shown.append(time.monotonic())
                    sizes.append(app.own_bytes())
                    print(
                        f"  {shown[-1] - start:8.0f} {(n + 1) * rows:11,} {app.backlog():13,} "
                        f"{sizes[-1] / 2**20:12.1f} {relay.mib():11.0f}",
                        flush=True,
                    )
            took = time.monotonic() - start
            app.wait_until_published()
            sizes.append(app.own_bytes())
            seen = probes.end(reader)
        print(
            f"  {events / took:,.0f} events/s; tables at most {max(sizes) / 2**20:.1f} MiB, at the end "
            f"{sizes[-1] / 2**20:.1f}; relay's peak {relay.peak_mib():.0f} MiB"
        )
    for begin, end in zip(shown, [*shown[1:], float("inf")], strict=True):
        delays = [seen[key] - at for key, at in probes.committed.items() if begin <= at < end]
        if delays:
            print(f"  commit to Kafka from {begin - start:6.0f} s on: {percentiles(delays)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bootstrap")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rate", type=float, default=15_000.0, help="events a second")
    parser.add_argument("--rows", type=int, default=1_000, help="that a transaction changes")
    parser.add_argument("--old-snapshot", action="store_true", help="held by somebody all the time")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between lines")
    options = parser.parse_args()
    held = ", beside an old snapshot" if options.old_snapshot else ""
    heading(f"{options.events:,} events through the outbox at {options.rate:,.0f} a second{held}")
    with (
        application(options.url, options.bootstrap, ROWS, snapshot="never") as app,
        old_snapshot(app) if options.old_snapshot else contextlib.nullcontext(),
    ):
        run(app, options.events, options.rate, options.rows, options.every)


if __name__ == "__main__":
    main()
