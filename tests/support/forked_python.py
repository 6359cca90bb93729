"""Start Python programs as processes that have already imported everything.

A new Python process takes more than a second of CPU to import rowcast and its libraries. A forked process takes
milliseconds, and is in all other respects a process of its own: with its own id, signals, environment and exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

from servers.guard import Guard

_IMPORTED = [
    "rowcast.shared.cli.app", "rowcast.producer", "rowcast.producer.cli.commands", "rowcast.producer.relay",
    "rowcast.producer.relay.main_loop", "rowcast.consumer", "rowcast.consumer.commands",
    "rowcast.consumer.running.run_worker", "sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.mysql",
    "sqlalchemy.dialects.sqlite", "psycopg", "pymysql", "confluent_kafka.admin", "support.forked_python",
]  # fmt: skip


@cache
def _context() -> ForkServerContext:
    """Return the context of the server that forks. The server has a single thread, so that a fork is safe."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


class ForkedPython:
    """Run ``python ARGUMENTS`` with the output in ``log``, in a session of its own.

    ``arguments``: ``-m MODULE ARGUMENT...``. ``environment``: all variables of the process. The guard kills the process
    if the test run ends before.
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, guard: Guard, *, cwd: Path, environment: Mapping[str, str]
    ) -> None:
        if arguments[0] != "-m":
            raise ValueError(f"{arguments[0]!r}: the first argument must be -m")
        self._guard = guard
        self._process = _context().Process(
            target=_run, args=(list(arguments[1:]), log, cwd, dict(environment)), daemon=False
        )
        # The test may read the log at once.
        log.touch()
        with guard.starting():
            self._process.start()
            assert self._process.pid is not None
            self.pid = self._process.pid
            guard.watch_process(self.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """Return the exit code, minus the number of the signal that ended the process, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """Wait for the end and return the exit code. Raises TimeoutError after ``seconds``."""
        self._process.join(seconds)
        code = self.poll()
        if code is None:
            raise TimeoutError(f"process {self.pid} has not ended within {seconds:.0f} s")
        self._guard.forget_process(self.pid)
        return code

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.send_signal(signal.SIGKILL)
        self.wait(30)

    def end(self, seconds: float) -> int:
        """Send SIGTERM, even to a process that stands still, and return the exit code.

        Raises TimeoutError if the process has not ended after ``seconds``. Then the process is killed.
        """
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)
        try:
            return self.wait(seconds)
        except TimeoutError:
            self.kill()
            raise


def _run(arguments: list[str], log: Path, cwd: Path, environment: dict[str, str]) -> None:
    """Become the program, in the forked process."""
    os.setsid()
    with log.open("ab") as out:
        os.dup2(out.fileno(), sys.stdout.fileno())
        os.dup2(out.fileno(), sys.stderr.fileno())
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    # A new process would read this from PYTHONWARNINGS.
    warnings.resetwarnings()
    warnings.simplefilter("error" if environment.get("PYTHONWARNINGS") == "error" else "default")
    sys.path.insert(0, str(cwd))
    module, *sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
