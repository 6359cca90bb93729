"""Count what the capture costs the application's process, in executed bytecodes and calls, beside a plain session.

    python -m benchmarks.bench_bytecodes URL [--functions N]

A count does not depend on the load of the machine, and two runs give the same figures. It knows nothing of the time in
C functions and in the database, so `bench_capture` has the last word. ``--functions``: also list the functions that
execute the most bytecodes in addition to the plain session's.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections import Counter
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import sqlalchemy as sa

from .bench_capture import KINDS, Contestant

WORKLOADS = {"oltp": 50, "upsert": 50, "flush": 200}
"""The methods of the contestants, and the transactions, rows or objects of a block."""

_WARM_UP_BLOCKS = 2


@dataclass
class Count:
    """Hold the bytecodes and calls of each function."""

    bytecodes: Counter[CodeType] = field(default_factory=Counter)
    calls: Counter[CodeType] = field(default_factory=Counter)

    def start(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.calls[frame.f_code] += 1
        return self._step

    def _step(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            self.bytecodes[frame.f_code] += 1
        return self._step


def count(contestant: Contestant, method: str, size: int) -> Count:
    """Return the count of a block, after blocks that fill all caches."""
    run = getattr(contestant, method)
    for _ in range(_WARM_UP_BLOCKS):
        run(size)
    counted = Count()
    gc.disable()
    sys.settrace(counted.start)
    try:
        run(size)
    finally:
        sys.settrace(None)
        gc.enable()
    return counted


def prepared(kind: str, url: str) -> Contestant:
    # A connection of the pool keeps its prepared statements.
    contestant = KINDS[kind](f"bytecodes_{kind}", sa.create_engine(url, pool_size=1, max_overflow=0))
    contestant.prepare()
    return contestant


def name_of(code: CodeType) -> str:
    path = code.co_filename.rpartition("site-packages/")[2].rpartition("/src/")[2]
    return f"{path}:{code.co_firstlineno} {code.co_qualname}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--functions", type=int, default=0)
    options = parser.parse_args()
    plain, captured = prepared("plain", options.url), prepared("rowcast", options.url)
    for method, size in WORKLOADS.items():
        before, after = count(plain, method, size), count(captured, method, size)
        steps, calls = (
            [sum(counter.values()) / size for counter in counters]
            for counters in ((before.bytecodes, after.bytecodes), (before.calls, after.calls))
        )
        print(
            f"{method:8} bytecodes: plain {steps[0]:8,.0f}, rowcast {steps[1]:8,.0f} ({steps[1] / steps[0]:.3f}x)   "
            f"calls: plain {calls[0]:6,.0f}, rowcast {calls[1]:6,.0f}"
        )
        more = after.bytecodes.copy()
        more.subtract(before.bytecodes)
        for code, bytecodes in more.most_common(options.functions):
            print(f"    {bytecodes / size:8.1f} {after.calls[code] / size:6.2f} calls  {name_of(code)}")


if __name__ == "__main__":
    main()
