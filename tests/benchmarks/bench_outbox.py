"""Millions of events through the outbox: its tables must stay small, and a change's way short.

    python tests/benchmarks/bench_outbox.py URL BOOTSTRAP [--events 10000000] [--rate 15000] [--every 30]

The application updates 1,000 rows a transaction at an even rate of events; beside that a single row ten times a second,
whose way from COMMIT to Kafka is the latency.
"""

from __future__ import annotations

import argparse
import threading
import time
from multiprocessing.connection import Connection

import sqlalchemy as sa
from relayed import Application, Command, Order, Probe, application, heading, observer, percentiles

ROWS = 10_000
PER_TRANSACTION = 1_000


class Probes:
    """Single rows, ten times a second, in a thread."""

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
        """When each was seen in Kafka."""
        self._stop.set()
        self._thread.join()
        reader.send(len(self.committed))
        seen: dict[int, float] = reader.recv()
        return seen


def run(app: Application, events: int, rate: float, every: float) -> None:
    with Command(app.config, "relay") as relay:
        app.probe(0)
        app.wait_until_published()
        with observer(app.bootstrap, app.topic(Probe)) as reader:
            probes = Probes(app)
            start = time.monotonic()
            shown = [start]
            sizes: list[int] = []
            print("   seconds      events   outbox rows   tables MiB   relay MiB", flush=True)
            for n in range(events // PER_TRANSACTION):
                time.sleep(max(0.0, start + n * PER_TRANSACTION / rate - time.monotonic()))
                first = n * PER_TRANSACTION % ROWS
                with app.sessions.begin() as session:
                    chosen = Order.id.between(first, first + PER_TRANSACTION - 1)
                    session.execute(sa.update(Order).where(chosen).values(customer_id=n))
                if time.monotonic() - shown[-1] >= every:
                    shown.append(time.monotonic())
                    sizes.append(app.own_bytes())
                    print(
                        f"  {shown[-1] - start:8.0f} {(n + 1) * PER_TRANSACTION:11,} {app.backlog():13,} "
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
    parser.add_argument("--every", type=float, default=30.0, help="seconds between lines")
    options = parser.parse_args()
    heading(f"{options.events:,} events through the outbox at {options.rate:,.0f} a second")
    with application(options.url, options.bootstrap, ROWS, snapshot="never") as app:
        run(app, options.events, options.rate, options.every)


if __name__ == "__main__":
    main()
