"""Run the real commands as processes, and end every process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from rowcast.producer.demo.workspace import Workspace
from rowcast.shared.errors import RowcastError

_PROGRESS_INTERVAL_S = 0.2


class RealProcess:
    """Run ``rowcast <arguments>`` as a process. The demo reads the figures from the process's JSON log file.

    ``name``: the name of the log file, without its suffix.
    """

    def __init__(self, where: Workspace, name: str, *arguments: str) -> None:
        self.command = arguments[0]
        self.log = where.log(name)
        self._output = where.output(name)
        options = [f"--config={where.config}", "--log-format=json", f"--progress-interval={_PROGRESS_INTERVAL_S}"]
        with self.log.open("wb") as log, self._output.open("wb") as output:
            self._process = subprocess.Popen(
                rowcast(*arguments, *options),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=environment(),
                # Ctrl-C must reach only the demo, because the demo stops the processes in its own order.
                start_new_session=True,
            )
        self._read_to = 0
        self._figures: dict[str, Any] = {}

    def figures(self) -> dict[str, Any]:
        """Return the latest progress in the log."""
        with self.log.open("rb") as log:
            log.seek(self._read_to)
            # The last line may be incomplete.
            whole = log.read().rpartition(b"\n")[0]
        self._read_to += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            # Lines without JSON, such as warnings of the interpreter, are no progress.
            with suppress(orjson.JSONDecodeError, TypeError, ValueError):
                self._figures.update(orjson.loads(line))
        return self._figures

    @property
    def output(self) -> str:
        """Return the standard output of the process."""
        return self._output.read_text("utf-8")

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.poll()

    def require_alive(self) -> None:
        """Raise RowcastError, with the end of the log, if the process has ended by itself."""
        if self.exit_code is not None:
            raise self._ended("by itself")

    def require_exit_code(self, *expected: int) -> None:
        """Raise RowcastError, with the end of the log, if the process has ended with an unexpected exit code."""
        if self._process.returncode not in expected:
            raise self._ended("in failure")

    def _ended(self, how: str) -> RowcastError:
        code = self._process.returncode
        return RowcastError(f"`rowcast {self.command}` ended {how}, with exit code {code}:\n{_tail(self.log)}")

    def ask_to_stop(self) -> None:
        """Send SIGTERM. The process finishes the current batch."""
        if self.exit_code is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process with SIGKILL, as the kernel does when memory is short."""
        self.send_kill()
        self._process.wait()

    def send_kill(self) -> None:
        """Send SIGKILL, if the process still runs."""
        self._process.kill()


class Processes:
    """Start processes of a run, and know all of them."""

    def __init__(self, where: Workspace) -> None:
        self._where = where
        self._started: list[RealProcess] = []

    def start(self, name: str, *arguments: str) -> RealProcess:
        """Start ``rowcast <arguments>``, with its log in ``<name>.log``."""
        self._started.append(RealProcess(self._where, name, *arguments))
        return self._started[-1]

    def kill(self) -> None:
        """Kill all running processes.

        All get the signal before the first wait, because another Ctrl-C may interrupt the wait.
        """
        for process in self._started:
            process.send_kill()
        for process in self._started:
            process.kill()


@contextmanager
def processes_of(where: Workspace) -> Iterator[Processes]:
    """Yield the processes of a run. Kill all running processes at the end of the block."""
    processes = Processes(where)
    try:
        yield processes
    finally:
        processes.kill()


def rowcast(*arguments: str) -> list[str]:
    """Return the command line of a ``rowcast`` command of this installation."""
    return [sys.executable, "-m", "rowcast.shared.cli", *arguments]


def environment() -> dict[str, str]:
    """Return the environment without the user's rowcast settings, because they would override the demo's file."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith("ROWCAST_")}


def _tail(log: Path, lines: int = 5) -> str:
    texts = []
    for line in log.read_bytes().splitlines()[-lines:]:
        try:
            entry = orjson.loads(line)
            texts.append(f"  {entry['message']}")
            # The last line of a traceback names the error.
            texts += [f"  {text}" for text in str(entry.get("exception", "")).splitlines()[-1:]]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            texts.append("  " + line.decode(errors="replace"))
    return "\n".join(texts) or "  (it logged nothing)"
