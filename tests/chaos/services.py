"""Keep relays, workers and writers running, as a supervisor does."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from servers.guard import Guard
from support.pipeline.pipeline import Command

_LOOK_S = 0.1
_RESTART_S = (0.5, 5.0)
"""The pause before a restart, at first and at most. It doubles while the process ends soon."""
_SOON_S = 10.0
_PASSING = (0, 3, 4, -9)
"""Exit codes that a supervisor need not show anybody: stopped, unreachable at the start, stuck, killed."""


class Service:
    """Start a program again whenever it ends, until ``stop``."""

    def __init__(self, name: str, arguments: list[str], folder: Path, guard: Guard) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.clock = folder / f"{name}.clock"
        """The file with the seconds by which the clock of the process is ahead."""
        self.exits: Counter[int] = Counter()
        """How often the process has ended by itself, by exit code."""
        self._errors: list[str] = []
        self._write_clock(0)
        self._arguments = ["-m", "chaos.shifted_clock", str(self.clock), *arguments]
        self._guard = guard
        self._lock = threading.RLock()
        self._command: Command | None = None
        self._is_on = False
        self._started_at = self._restart_at = 0.0
        self._pause_s = _RESTART_S[0]

    def start(self) -> None:
        with self._lock:
            self._is_on = True
            self._spawn()

    def stop(self) -> None:
        """Send SIGTERM and wait for the end. Raises NotInTimeError if the process does not end in time."""
        with self._lock:
            self._is_on = False
            if self._command is not None and self._command.exit_code is None:
                self._command.stop()

    def kill(self) -> None:
        """Send SIGKILL. The process starts again at once."""
        with self._lock:
            if self._command is not None and self._command.exit_code is None:
                self._command.kill()
                self._spawn()

    def suspend(self) -> None:
        with self._lock:
            if self._command is not None:
                self._command.pause()

    def resume(self) -> None:
        with self._lock:
            if self._command is not None:
                self._command.resume()

    def shift_clock(self, seconds: int) -> None:
        """Let the clock of the process be ahead by ``seconds`` from now on."""
        self._write_clock(seconds)

    def supervise(self) -> None:
        """Start the process again if it has ended and its pause is over."""
        with self._lock:
            if not self._is_on or self._command is None or self._command.exit_code is None:
                return
            now = time.monotonic()
            if not self._restart_at:
                self._note_exit(self._command)
                is_soon = now - self._started_at < _SOON_S
                self._pause_s = min(self._pause_s * 2, _RESTART_S[1]) if is_soon else _RESTART_S[0]
                self._restart_at = now + self._pause_s
            elif now >= self._restart_at:
                self._spawn()

    def take_errors(self) -> list[str]:
        """Return how the process has ended with an error since the last call."""
        with self._lock:
            errors, self._errors = self._errors, []
            return errors

    def _note_exit(self, command: Command) -> None:
        assert command.exit_code is not None
        self.exits[command.exit_code] += 1
        if command.exit_code not in _PASSING:
            last = next((line for line in reversed(command.last_lines().splitlines()) if line.strip()), "")
            self._errors.append(f"ended with exit code {command.exit_code}: {last}")

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _spawn(self) -> None:
        if self._command is not None:
            self._guard.forget_process(self._command.pid)
        self._restart_at = 0.0
        self._started_at = time.monotonic()
        self._command = Command(self._arguments, self.log, self._guard)

    def _write_clock(self, seconds: int) -> None:
        # A reader never finds the file empty.
        unfinished = self.clock.with_suffix(".tmp")
        unfinished.write_text(str(seconds))
        os.replace(unfinished, self.clock)


class Services:
    """Supervise services by name."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._services = dict(services)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def __getitem__(self, name: str) -> Service:
        return self._services[name]

    def named(self, beginning: str) -> list[Service]:
        """Return the services whose names begin so."""
        return [service for name, service in self._services.items() if name.startswith(beginning)]

    def start(self) -> None:
        for service in self._services.values():
            service.start()
        self._thread.start()

    def close(self) -> None:
        """Supervise no more. The guard ends the processes."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            for service in self._services.values():
                service.supervise()
