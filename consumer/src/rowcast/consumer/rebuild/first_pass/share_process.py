"""The processes that fill shares: ``python -m rowcast.consumer.rebuild.first_pass.share_process DRIVER PIPE...``.

The first process imports everything once, and then forks a process for each pair of pipes. A fork takes milliseconds,
and imports take more than a second. Afterwards the first process reports the exit codes on standard output, and kills
what is left some seconds after the end of standard input.

A forked process reads jobs from its first pipe and writes reports to its second pipe, all as pickles. Therefore no
secret is an argument. The end of the first pipe says that the rebuild is over, has been stopped, or is gone. The
process then ends at once, in the middle of whatever it does, and the database rolls its transaction back.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import BinaryIO, NoReturn

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.rebuild.first_pass.messages import Failed, Filled, Job, Logged, Reached, Report
from rowcast.consumer.worker.assignment import Assignment
from rowcast.consumer.worker.main_loop import run_assigned
from rowcast.shared.errors import RowcastError

_log = logging.getLogger("rowcast.rebuild")

_END_S = 5.0


def main() -> None:
    """Fork a process for each pair of pipes, and report how each has ended."""
    driver, *descriptors = sys.argv[1:]
    pipes = list(zip(map(int, descriptors[::2]), map(int, descriptors[1::2]), strict=True))
    import_module(driver)
    numbers = {_fork(pipes, number): number for number in range(len(pipes))}
    for pipe in pipes:
        _close(pipe)
    # After the forks, because a fork does not copy threads.
    threading.Thread(target=_kill_the_rest, args=(numbers,), daemon=True).start()
    while numbers:
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        _report_code(numbers.pop(pid), code)
    os._exit(0)


def _kill_the_rest(processes: Mapping[int, int]) -> None:
    """Kill the processes that are suspended, some seconds after the end of the rebuild."""
    while os.read(0, 1):
        pass
    time.sleep(_END_S)
    for pid in list(processes):
        os.kill(pid, signal.SIGKILL)


def _report_code(number: int, code: int) -> None:
    try:
        os.write(1, pickle.dumps((number, code)))
    except OSError as error:
        _log.debug("the rebuild is gone: %s", error)


def _fork(pipes: Sequence[tuple[int, int]], number: int) -> int:
    """Return the id of a new process. The process works for the pipes of this number, and closes all other pipes."""
    if (pid := os.fork()) != 0:
        return pid
    for other, pipe in enumerate(pipes):
        if other != number:
            _close(pipe)
    # Whatever is printed goes to standard error.
    os.dup2(2, 1)
    reading, writing = pipes[number]
    try:
        _work(os.fdopen(reading, "rb"), Reports(os.fdopen(writing, "wb")))
    except BaseException:  # noqa: BLE001  # the exit code says it
        _fail()


def _close(pipe: tuple[int, int]) -> None:
    for descriptor in pipe:
        os.close(descriptor)


class Reports:
    """Write reports to the rebuild, from any thread. The object takes the place of a worker's group."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, report: Report) -> None:
        """Write a report. End the process if the rebuild is gone."""
        data = pickle.dumps(report)
        with self._lock:
            try:
                self._stream.write(data)
                self._stream.flush()
            except OSError:
                os._exit(0)

    def poll(self) -> None:
        """Do nothing, because there is no group."""

    def commit_offsets(self, positions: Mapping[Partition, Position]) -> None:
        """Report positions."""
        self.write(Reached(dict(positions)))

    def close(self) -> None:
        """Do nothing, because there is no group."""


class _ReportedLog(logging.Handler):
    """Hand the lines of the log over to the rebuild."""

    def __init__(self, reports: Reports) -> None:
        super().__init__()
        self._reports = reports

    def emit(self, record: logging.LogRecord) -> None:
        """Report a line."""
        self._reports.write(Logged(record.name, record.levelno, self.format(record)))


def _work(jobs_stream: BinaryIO, reports: Reports) -> NoReturn:
    """Do jobs until the rebuild closes the pipe."""
    logging.getLogger().addHandler(_ReportedLog(reports))
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    threading.Thread(target=_take_jobs, args=(jobs_stream, jobs), daemon=True).start()
    while True:
        reports.write(_fill(jobs.get(), reports))


def _take_jobs(stream: BinaryIO, jobs: queue.SimpleQueue[Job]) -> NoReturn:
    try:
        while True:
            jobs.put(pickle.load(stream))
    except EOFError:
        os._exit(0)
    except BaseException:  # noqa: BLE001  # the exit code says it
        _fail()


def _fail() -> NoReturn:
    """End a forked process with a traceback on standard error, and never return to the caller."""
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


def _fill(job: Job, reports: Reports) -> Report:
    logging.getLogger().setLevel(job.log_level)
    target = job.target
    assignment = Assignment(
        job.source,
        target.naming,
        lambda: reports,
        command=target.command,
        rebuild_command=f"{target.command} --restart",
        is_shared=False,
        part=job.part,
        share=job.share,
    )
    try:
        run_assigned(target.settings, target.replica, assignment, once=True, skip=target.skip)
    except RowcastError as error:
        return Failed(error, "")
    except Exception:  # noqa: BLE001  # the rebuild raises it
        return Failed(None, traceback.format_exc())
    return Filled()


if __name__ == "__main__":
    main()
