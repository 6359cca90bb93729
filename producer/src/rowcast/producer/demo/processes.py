"""Run relay and worker as processes with the real commands, and always stop them with SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from rowcast.producer.demo.workspace import Workspace
from rowcast.shared.errors import RowcastError

_STOP_S = 15.0
_PROGRESS_INTERVAL_S = 0.2


class RealProcess:
    """Run ``rowcast <command>`` as a process. The demo reads the progress from the process's JSON log file."""

    def __init__(self, places: Workspace, command: str, *arguments: str) -> None:
        self.command = command
        self.log = places.log(command)
        options = [f"--config={places.config}", "--log-format=json", f"--progress-interval={_PROGRESS_INTERVAL_S}"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                rowcast(command, *arguments, *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
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

    def require_alive(self) -> None:
        """Raise RowcastError, with the end of the log, if the process has ended by itself."""
        if self._process.poll() is not None:
            raise self._ended("by itself")

    def require_done(self) -> None:
        """Raise RowcastError, with the end of the log, if the exit code is not 0. Call it after ``stop``."""
        if self._process.returncode != 0:
            raise self._ended("after SIGTERM")

    def _ended(self, when: str) -> RowcastError:
        code = self._process.returncode
        return RowcastError(f"`rowcast {self.command}` ended {when}, with exit code {code}:\n{_tail(self.log)}")

    def stop(self) -> None:
        """Send SIGTERM, and wait until the process has finished the current batch. Kill it after some seconds."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running(places: Workspace, *commands: Sequence[str]) -> Iterator[list[RealProcess]]:
    """Run ``rowcast`` commands until the block ends, and stop them in any case."""
    started: list[RealProcess] = []
    try:
        for command in commands:
            started.append(RealProcess(places, *command))
        yield started
    finally:
        for process in started:
            process.stop()


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
