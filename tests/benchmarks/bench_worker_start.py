"""Measure a worker's start: from the start of the process to its end, with one transaction to apply.

    python -m benchmarks.bench_worker_start REPLICA_URL BOOTSTRAP [--tables 100] [--rounds 5]

The replica has the tables already, as for the successor of a killed worker.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import uuid

from benchmarks.harness import heading, time_command, worker_config
from support.kafka_source import Source, column, shape
from support.worker_runs import NAME, settings_for, work_once

_COLUMNS = [f"c{n}" for n in range(10)]


def row(text: str) -> dict[str, object]:
    return {"id": 1} | dict.fromkeys(_COLUMNS, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bootstrap")
    parser.add_argument("--tables", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    source = Source(options.bootstrap, f"bench-start-{uuid.uuid4().hex[:8]}")
    names = [f"t{n}" for n in range(options.tables)]
    source.add(*(shape(name, *(column(c, "text") for c in _COLUMNS)) for name in names))
    source.transaction(*(("c", name, row("x")) for name in names))
    work_once(settings_for(source.name, options.bootstrap, options.url))
    times = []
    with tempfile.TemporaryDirectory() as folder:
        config = worker_config(folder, source.name, options.bootstrap, NAME, options.url)
        for n in range(options.rounds):
            source.transaction(("u", "t0", row(str(n))))
            times.append(time_command(config, "worker", NAME, "--once"))
    heading(f"start of a worker, {options.tables} tables, {options.rounds} rounds")
    print(f"  median {statistics.median(times):.2f} s   {min(times):.2f}–{max(times):.2f}")


if __name__ == "__main__":
    main()
