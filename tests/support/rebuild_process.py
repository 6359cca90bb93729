"""Rebuild a replica in a process that kills itself.

`python -m support.rebuild_process NUMBER PHASE SETTINGS [TABLE...]`, or `MILLISECONDS loading SETTINGS`
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.consumer.rebuild.options import RebuildOptions
from rowcast.consumer.rebuild.progress import OnRebuildProgress, RebuildProgress
from rowcast.consumer.rebuild.rebuild import rebuild
from rowcast.shared.config.settings import Settings
from support.worker_runs import NAME


def kill_at(number: int, *, phase: str) -> None:
    """Kill this process at the statement or commit of this number, on any connection.

    ``phase``: count from the start, or only from the first statement of the ``swap`` on. Odd numbers kill before a
    statement, even numbers after it.
    """
    counted, counts = 0, phase == "start"
    lock = threading.Lock()

    def count(statement: str) -> None:
        nonlocal counted, counts
        with lock:
            counts = counts or any(word in statement for word in _SWAP)
            counted += counts
            if counted == number:
                os.kill(os.getpid(), signal.SIGKILL)

    moment = "before_cursor_execute" if number % 2 else "after_cursor_execute"
    sa.event.listen(Engine, moment, lambda _connection, _cursor, statement, *_: count(statement))
    sa.event.listen(Engine, "commit", lambda _: count(""))


def kill_while_loading(ms: int) -> OnRebuildProgress:
    """Kill this process so long after the start of the load."""

    def note(progress: RebuildProgress) -> None:
        if progress.phase == "loading":
            threading.Timer(ms / 1_000, os.kill, (os.getpid(), signal.SIGKILL)).start()

    return note


# The first statements of a swap on the engines.
_SWAP = ("LOCK TABLE", "legacy_alter_table = ON", "CREATE TABLE rowcast_swap_")


def main() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    number, phase = int(sys.argv[1]), sys.argv[2]
    settings = Settings(**orjson.loads(sys.argv[3]))
    if phase == "loading":
        options = RebuildOptions(is_verified=False, processes=2)
        rebuild(settings, NAME, options, stop=threading.Event(), on_progress=kill_while_loading(number))
        return
    kill_at(number, phase=phase)
    options = RebuildOptions(is_verified=False, tables=sys.argv[4:])
    rebuild(settings, NAME, options, stop=threading.Event())


if __name__ == "__main__":
    main()
