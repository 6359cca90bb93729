"""Count the bytecodes that the worker executes for each event, in the modes of ``bench_worker``.

    python -m benchmarks.bench_worker_bytecodes URL BOOTSTRAP [--events 10000] [--functions N]

A count hardly depends on the load of the machine. It knows nothing of the time in C functions, in libraries and in the
database, so ``bench_worker`` has the last word. ``--functions``: also list the functions with the most bytecodes.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time

from benchmarks.bench_bytecodes import Count, name_of
from benchmarks.bench_worker import Bench

_PACKAGE = "rowcast"
_MIX = "B"


def count(bench: Bench, *, consistent: bool) -> Count:
    """Return the count of a worker from its start to the last event."""
    source = bench.prepare(_MIX, consistent=consistent)
    if not consistent:
        bench.empty()
    time.sleep(1)  # Give the broker time to write the messages.
    counted = Count()
    threading.settrace(counted.start)
    sys.settrace(counted.start)
    try:
        bench.work(source)
    finally:
        sys.settrace(None)
        threading.settrace(None)
    bench.check(_MIX)
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bootstrap")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--functions", type=int, default=0)
    options = parser.parse_args()
    bench = Bench(options.url, options.bootstrap, options.events)
    for name, consistent in (("loading", False), ("transactions", True)):
        counted = count(bench, consistent=consistent)
        own = {code: n for code, n in counted.bytecodes.items() if f"/{_PACKAGE}/" in code.co_filename}
        print(f"{name:14} {sum(own.values()) / options.events:8.1f} bytecodes for each event in {_PACKAGE}")
        for code, n in counted.bytecodes.most_common(options.functions):
            calls = counted.calls[code] / options.events
            print(f"    {n / options.events:8.1f} {calls:6.2f} calls  {name_of(code)}")


if __name__ == "__main__":
    main()
