"""Measure how fast `rowcast rebuild` makes a replica again, beside the worker that loads the same topics.

    python -m benchmarks.bench_rebuild URL BOOTSTRAP [--events N] [--rounds N]

The topics and the table are those of `bench_worker`. In each round a worker loads an empty replica, and a rebuild then
replaces the replica's table. Both times run from the call to the end, with the start, the constraints and, for the
rebuild, the swap and the drop of the old table. Nothing is compared with a primary.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.bench_worker import Bench
from rowcast.consumer.rebuild.options import RebuildOptions
from rowcast.consumer.rebuild.rebuild import rebuild
from support.worker_runs import NAME, settings_for, work_once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bootstrap")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mix", choices=("A", "B"), default="A")
    options = parser.parse_args()
    bench = Bench(options.url, options.bootstrap, options.events)
    rates: dict[str, list[float]] = {"worker": [], "rebuild": []}
    for _ in range(options.rounds):
        source = bench.prepare(options.mix, consistent=False)
        settings = settings_for(source.name, options.bootstrap, options.url)
        bench.empty()
        time.sleep(1)  # Give the broker time to write the messages.
        began = time.perf_counter()
        work_once(settings)
        loaded = time.perf_counter()
        rebuild(settings, NAME, RebuildOptions(is_verified=False), stop=threading.Event())
        ended = time.perf_counter()
        bench.check(options.mix)
        rates["worker"].append(options.events / (loaded - began))
        rates["rebuild"].append(options.events / (ended - loaded))
    print(f"mix {options.mix}, {options.events:,} events, {options.rounds} rounds: events/s")
    for name, measured in rates.items():
        print(f"  {name:8} median {statistics.median(measured):10,.0f}   {min(measured):,.0f}–{max(measured):,.0f}")
    ratios = [a / b for a, b in zip(rates["rebuild"], rates["worker"], strict=True)]
    print(f"  rebuild / worker: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
