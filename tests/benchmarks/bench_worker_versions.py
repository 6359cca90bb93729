"""Compare the speed of the worker with that of another checkout, by turns.

    python -m benchmarks.bench_worker_versions URL BOOTSTRAP CHECKOUT [--events 100000] [--rounds 5]

Each turn runs the ``bench_worker.py`` of a checkout with mix B, which measures both modes. The checkouts take turns, so
a drift of the machine's speed meets both. The result is the median of each, and the median of the paired ratios.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[2]
_MODES = ("transactions", "loading")
_MEDIAN = re.compile(rf"^\s*({'|'.join(_MODES)})\s+median\s+([\d,]+)", re.MULTILINE)


def rates(checkout: Path, url: str, bootstrap: str, events: int) -> dict[str, int]:
    """Return the events per second of each mode."""
    sources = [str(checkout / side / "src") for side in ("producer", "consumer", "shared")]
    tests = checkout / "tests"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((*sources, str(tests)))}
    script = tests / "benchmarks" / "bench_worker.py"
    command = [sys.executable, str(script), url, bootstrap, "--mix", "B", "--rounds", "1", "--events", str(events)]
    done = subprocess.run(command, check=True, env=environment, cwd=tests, stdout=subprocess.PIPE, text=True)
    return {mode: int(rate.replace(",", "")) for mode, rate in _MEDIAN.findall(done.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bootstrap")
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    turns = []
    for n in range(options.rounds):
        pair = [
            rates(path, options.url, options.bootstrap, options.events) for path in (options.checkout.resolve(), HERE)
        ]
        turns.append(pair)
        print(f"  round {n + 1}: {pair[0]} there, {pair[1]} here", flush=True)
    for mode in _MODES:
        there, here = ([turn[side][mode] for turn in turns] for side in (0, 1))
        ratio = statistics.median(b / a for a, b in zip(there, here, strict=True))
        print(
            f"{mode:14} {statistics.median(there):10,.0f} there, {statistics.median(here):10,.0f} here ({ratio:.2f}x)"
        )


if __name__ == "__main__":
    main()
