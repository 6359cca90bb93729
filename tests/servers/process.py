"""Run a server as a child process."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from .guard import Guard

# pytest gives all processes the same seed, so the port comes from the system's randomness.
_random = random.SystemRandom()
_held: list[socket.socket] = []


def free_port() -> int:
    """Return a port below the range for outgoing connections, because a restarting server must find the port free.

    The port stays bound, without listening, until the current process ends. Other processes therefore find the port in
    use. A server can still listen on the port, because servers ask to reuse addresses.
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
    """Return arguments of Popen that give up root's rights, because database servers refuse to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def folder_for_unprivileged(path: Path) -> Path:
    """Return the folder, which may be the empty root of a file system."""
    path.mkdir(mode=0o700, exist_ok=True)
    give_to_unprivileged(path)
    return path


def give_to_unprivileged(path: Path) -> None:
    """Give the folder and everything in it to the user of ``unprivileged``."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for place in (path, *path.rglob("*")):
            os.chown(place, nobody.pw_uid, nobody.pw_gid)


def _children(pid: int) -> list[int]:
    """Return the children of a process. The children of a server have none."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class Process:
    """Run a process, and start it again with the same data after a stop or a kill."""

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
            # The server has a separate session, because Ctrl-C must not end a server before the test.
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
        """End the process like a crash."""
        self._end(self._crash_signal, 10)

    def pause(self) -> None:
        """Suspend the process and its children, because each connection of PostgreSQL has a process."""
        self._signal_tree(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_tree(signal.SIGCONT)

    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def output(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def reap(self) -> None:
        """Wait for a process that the guard has ended."""
        if self._child is not None:
            self._child.wait(10)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise RuntimeError(f"{self._command[0]} was not started")
        return self._child

    def _signal_tree(self, number: signal.Signals) -> None:
        pid = self._running().pid
        for each in (pid, *_children(pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, number)

    def _end(self, with_signal: signal.Signals, seconds: float) -> None:
        child = self._running()
        self._signal_tree(signal.SIGCONT)
        child.send_signal(with_signal)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        self._guard.forget_process(child.pid)
