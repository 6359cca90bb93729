"""Run a module with a wrong clock: ``python -m chaos.shifted_clock FILE MODULE ARGUMENT...``.

``FILE`` has the seconds by which the wall clock is ahead. The process reads it again all the time, so that the clock
can jump. Clocks of the libraries in C are right, above all those by which librdkafka waits.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

_LOOK_S = 0.5


def shift(file: Path) -> None:
    """Add the seconds in the file to what ``time.time`` and ``time.time_ns`` return."""
    right, right_ns, elapsed = time.time, time.time_ns, time.monotonic
    state = {"next": 0.0, "ahead": 0}

    def ahead() -> int:
        if elapsed() >= state["next"]:
            state["ahead"] = int(file.read_text() or 0)
            state["next"] = elapsed() + _LOOK_S
        return int(state["ahead"])

    time.time = lambda: right() + ahead()
    time.time_ns = lambda: right_ns() + ahead() * 1_000_000_000


def main() -> None:
    file, module, *arguments = sys.argv[1:]
    shift(Path(file))
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
