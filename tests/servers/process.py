"""A server as a child process of this one."""

from __future__ import annotations

import os
import pwd
import random
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from .guard import Guard

# The system's randomness: pytest gives all its processes the same seed.
_random = random.SystemRandom()
_held: list[socket.socket] = []


def free_port() -> int:
    """A port below those that the system gives to outgoing connections: a server that restarts finds it still free.

    It stays bound here, without being listened on, until this process ends: no other process finds it free, and a
    server may listen on it all the same, since servers ask to reuse addresses.
    """
    while True:
        port = _random.randrange(20_000, 32_000)
        holder = socket.socket()
        try:
            holder.bind(("127.0.0.1", port))
        except OSError:
            holder.close()
            continue
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _held.append(holder)
        return port


def unprivileged() -> dict[str, Any]:
    """Arguments of Popen that give up root's rights: the database servers refuse to run with them."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def folder_for_unprivileged(path: Path) -> Path:
    path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    return path


class Process:
    """Can be started again after it was stopped or killed; its data stay."""

    def __init__(
        self,
        command: list[str],
        *,
        folder: Path,
        guard: Guard,
        identity: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        crash_signal: signal.Signals = signal.SIGKILL,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._command = command
        self._folder = folder
        self._guard = guard
        self._identity = identity or {}
        self._environment = environment
        self._crash_signal = crash_signal
        self._stop_signal = stop_signal
        self._log = folder.with_suffix(".log")
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> None:
        with self._guard.starting(), self._log.open("ab") as log:
            # A session of its own: Ctrl-C must not end a server before the test that is using it.
            self._child = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self._environment,
                **self._identity,
            )
            self._guard.watch_process(self._child.pid, self._crash_signal)

    def stop(self) -> None:
        self._end(self._stop_signal, 60)

    def kill(self) -> None:
        """Ends it as a crash would."""
        self._end(self._crash_signal, 10)

    def pause(self) -> None:
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def output(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def reap(self) -> None:
        """Takes note of its end, which the guard has brought about."""
        if self._child is not None:
            self._child.wait(10)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise RuntimeError(f"{self._command[0]} was not started")
        return self._child

    def _end(self, with_signal: signal.Signals, seconds: float) -> None:
        child = self._running()
        child.send_signal(signal.SIGCONT)
        child.send_signal(with_signal)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        self._guard.forget_process(child.pid)
