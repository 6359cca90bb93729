"""Start, hear and end the processes of a first pass."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

from rowcast.consumer.rebuild.first_pass.messages import Ended, Failed, Filled, Job, Report

_MODULE = "rowcast.consumer.rebuild.first_pass.share_process"

# The exit code of a process comes right after the end of its reports.
_CODE_S = 1.0

# The first process kills suspended processes after five seconds.
_END_S = 8.0


class Processes:
    """Run jobs in ``count`` processes during the block, each job in the next free process.

    ``driver``: the module of the database's driver, to be imported before the fork.
    """

    def __init__(self, count: int, driver: str) -> None:
        self._count = count
        self._driver = driver
        self._forking: subprocess.Popen[bytes] | None = None
        self._inputs: list[IO[bytes]] = []
        self._codes: list[queue.SimpleQueue[int]] = []
        self._reports: queue.SimpleQueue[tuple[int, Report]] = queue.SimpleQueue()
        self._idle: list[int] = []
        self._waiting: list[Job] = []
        self._have_jobs = False

    def start(self) -> None:
        """Start the processes. Do nothing if the processes run. A process imports rowcast and then waits for jobs."""
        if self._forking is not None:
            return
        jobs, reports = ([os.pipe() for _ in range(self._count)] for _ in range(2))
        theirs = [descriptor for number in range(self._count) for descriptor in (jobs[number][0], reports[number][1])]
        try:
            self._forking = subprocess.Popen(
                [sys.executable, "-m", _MODULE, self._driver, *map(str, theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=theirs,
                # Ctrl-C goes to all processes of a terminal's group. The rebuild decides when the processes end.
                process_group=0,
            )
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._reports = queue.SimpleQueue()
        self._codes = [queue.SimpleQueue() for _ in range(self._count)]
        self._inputs = [os.fdopen(writing, "wb") for _, writing in jobs]
        self._idle, self._have_jobs = list(range(self._count)), False
        for number, (reading, _) in enumerate(reports):
            _run(_read_reports, number, os.fdopen(reading, "rb"), self._codes[number], self._reports)
        _run(_read_codes, self._forking.stdout, self._codes)

    def __enter__(self) -> Processes:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def begin(self, jobs: Sequence[Job]) -> None:
        """Begin the jobs, after the end of all earlier jobs."""
        self._waiting, self._have_jobs = list(jobs), True
        while self._idle and self._waiting:
            self._begin_next()

    def _begin_next(self) -> None:
        stream = self._inputs[self._idle.pop()]
        # The end of the reports shows that the process is gone.
        with suppress(OSError):
            stream.write(pickle.dumps(self._waiting.pop(0)))
            stream.flush()

    def take(self, timeout_s: float) -> Iterator[Report]:
        """Wait for the next report, and yield all reports that have come."""
        with suppress(queue.Empty):
            number, report = self._reports.get(timeout=timeout_s)
            while True:
                if isinstance(report, Filled | Failed):
                    self._idle.append(number)
                    if self._waiting:
                        self._begin_next()
                yield report
                number, report = self._reports.get_nowait()

    def end(self) -> None:
        """End all processes in the middle of their work. Reports that have not been taken are lost."""
        if (forking := self._forking) is None:
            return
        self._forking = None
        if not self._have_jobs:
            # The process may still be importing.
            forking.kill()
        assert forking.stdin is not None
        for stream in (*self._inputs, forking.stdin):
            with suppress(OSError):
                stream.close()
        try:
            forking.wait(_END_S)
        except subprocess.TimeoutExpired:
            # Suspended. The other processes see the end of their pipes.
            forking.kill()
            forking.wait()


def _run(target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, name="rowcast-shares", daemon=True).start()


def _read_reports(
    number: int,
    stream: IO[bytes],
    code: queue.SimpleQueue[int],
    reports: queue.SimpleQueue[tuple[int, Report]],
) -> None:
    with stream, suppress(EOFError, pickle.UnpicklingError):
        while True:
            reports.put((number, pickle.load(stream)))
    with suppress(queue.Empty):
        reports.put((number, Ended(code.get(timeout=_CODE_S))))
        return
    reports.put((number, Ended(None)))


def _read_codes(stream: IO[bytes], codes: Sequence[queue.SimpleQueue[int]]) -> None:
    with stream, suppress(EOFError, pickle.UnpicklingError):
        while True:
            number, code = pickle.load(stream)
            codes[number].put(code)
