"""Relay and worker as their real selves: commands of their own, told to stop by SIGTERM, never left behind."""

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

from rowcast.producer.demo.places import Places
from rowcast.shared.errors import RowcastError

_STOP_S = 15.0
_TOLD_EVERY_S = 0.2


class RealProcess:
    """``rowcast <command>`` as a process. Its JSON log goes to a file, where the demo reads its progress."""

    def __init__(self, places: Places, command: str, *arguments: str) -> None:
        self.command = command
        self.log = places.log(command)
        options = [f"--config={places.config}", "--log-format=json", f"--progress-interval={_TOLD_EVERY_S}"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                rowcast(command, *arguments, *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                # Ctrl-C is for the demo alone: it stops the others in its own order.
                start_new_session=True,
            )
        self._read_to = 0
        self._figures: dict[str, Any] = {}

    def figures(self) -> dict[str, Any]:
        """The latest progress that it told; what it told at its end, too."""
        with self.log.open("rb") as log:
            log.seek(self._read_to)
            # The last line may still be half written.
            whole = log.read().rpartition(b"\n")[0]
        self._read_to += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            # What is no JSON object is no progress: a warning of the interpreter, say.
            with suppress(orjson.JSONDecodeError, TypeError, ValueError):
                self._figures.update(orjson.loads(line))
        return self._figures

    def require_alive(self) -> None:
        """Raises RowcastError, with the end of its log, if it has ended by itself."""
        if self._process.poll() is not None:
            raise self._ended("by itself")

    def require_done(self) -> None:
        """After ``stop``. Raises RowcastError, with the end of its log, if it did not finish in order."""
        if self._process.returncode != 0:
            raise self._ended("when it was told to stop")

    def _ended(self, when: str) -> RowcastError:
        code = self._process.returncode
        return RowcastError(f"`rowcast {self.command}` ended {when}, with exit code {code}:\n{_tail(self.log)}")

    def stop(self) -> None:
        """SIGTERM, and time for the batch in hand."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running(places: Places, *commands: Sequence[str]) -> Iterator[list[RealProcess]]:
    """Runs ``rowcast`` commands for the length of the block; however it ends, they end with it."""
    started: list[RealProcess] = []
    try:
        for command in commands:
            started.append(RealProcess(places, *command))
        yield started
    finally:
        for process in started:
            process.stop()


def rowcast(*arguments: str) -> list[str]:
    """The command line of a ``rowcast`` command in this very installation."""
    return [sys.executable, "-m", "rowcast.shared.cli", *arguments]


def environment() -> dict[str, str]:
    """This process's environment without the user's own rowcast settings, which would win over the demo's file."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith("ROWCAST_")}


def _tail(log: Path, lines: int = 5) -> str:
    told = []
    for line in log.read_bytes().splitlines()[-lines:]:
        try:
            entry = orjson.loads(line)
            told.append(f"  {entry['message']}")
            # The last line of a traceback says what it was.
            told += [f"  {text}" for text in str(entry.get("exception", "")).splitlines()[-1:]]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            told.append("  " + line.decode(errors="replace"))
    return "\n".join(told) or "  (it logged nothing)"
