"""Kill a worker every few seconds while it works off a backlog, and show the progress that is left.

    python -m benchmarks.bench_killed_worker REPLICA_URL BOOTSTRAP [--events 1000000] [--kills 10] [--every 10]

The replica is consistent before the backlog is written. Each worker is a new process that starts as soon as its
predecessor has been killed with SIGKILL. After the last kill a worker applies the rest, and the rows are compared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

from benchmarks.bench_worker import Bench
from benchmarks.harness import Command, heading, time_command, worker_config
from rowcast.shared.database.engines import open_engine
from support.worker_runs import NAME


class Progress:
    """Read what the replica has applied."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url, "bench", pooled=False)

    def read(self) -> tuple[int, int, str]:
        """Return the lsn, the epoch and the state."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.text("SELECT lsn, epoch, state FROM rowcast_replica")).one()
            return int(row.lsn), int(row.epoch), str(row.state)


def kill_in_turn(config: Path, progress: Progress, first_lsn: int, last_lsn: int, kills: int, every: float) -> int:
    """Return the number of workers that made no progress."""
    idle = 0
    lsn = first_lsn
    print("  kill   applied   took over   state", flush=True)
    for n in range(1, kills + 1):
        epoch = progress.read()[1]
        with Command(config, "worker", NAME) as worker:
            time.sleep(every)
            worker.kill()
        before, (lsn, new_epoch, state) = lsn, progress.read()
        idle += lsn == before and lsn < last_lsn
        share = (lsn - first_lsn) / (last_lsn - first_lsn)
        print(f"  {n:4} {share:9.1%} {'yes' if new_epoch > epoch else 'no':>11}   {state}", flush=True)
    return idle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bootstrap")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--every", type=float, default=10.0)
    options = parser.parse_args()
    engine = sa.make_url(options.url).get_backend_name()
    heading(f"{engine}: {options.events:,} events, a worker killed every {options.every:g} s")
    bench = Bench(options.url, options.bootstrap, options.events)
    source = bench.prepare("B", consistent=True)
    progress = Progress(options.url)
    first_lsn = progress.read()[0]
    with tempfile.TemporaryDirectory() as folder:
        config = worker_config(folder, source.name, options.bootstrap, NAME, options.url)
        idle = kill_in_turn(config, progress, first_lsn, source.lsn, options.kills, options.every)
        rest_s = time_command(config, "worker", NAME, "--once")
        print(f"  the rest took {rest_s:.0f} s. Workers without progress: {idle}", flush=True)
    bench.check("B")
    print("  the rows are equal", flush=True)


if __name__ == "__main__":
    main()
