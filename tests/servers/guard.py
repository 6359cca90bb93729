"""End all processes and containers of a test run, however the run ends.

The guard is a separate process. It reads the names of processes, containers and folders from a pipe. The pipe closes
when the run is over or was killed. Then the guard ends the processes and containers and removes the folders. Every run
is cleaned up in this way, so the way after SIGKILL is well tested.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path


class Guard:
    def __init__(self) -> None:
        # The guard has a separate session, because Ctrl-C in the terminal must reach the test run, but not the guard.
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        self._lock = threading.RLock()
        self._closed = False

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Allow the block to start something and to have it watched. Raises RuntimeError after the guard was closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the servers are being ended; no other is started")
            yield

    def watch_process(self, pid: int, end_with: signal.Signals) -> None:
        self._write(f"process {pid} {int(end_with)} {started_at(pid)}")

    def forget_process(self, pid: int) -> None:
        """Watch a process no more, because it has ended. A closed guard watches nothing."""
        with self._lock:
            if not self._closed:
                self._write(f"ended {pid}")

    def watch_container(self, name: str) -> None:
        self._write(f"container {name}")

    def watch_mount(self, path: Path) -> None:
        self._write(f"mount {path}")

    def watch_path(self, path: Path) -> None:
        self._write(f"path {path}")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._process.stdin and not self._process.stdin.closed:
                self._process.stdin.close()
        self._process.wait()

    def _write(self, line: str) -> None:
        assert self._process.stdin
        with self._lock:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()


def started_at(pid: int) -> str:
    """Return when the process started, in ticks since the machine's start, or "" if the system does not say.

    The number of a process that has ended is given again, to a process or to a thread of any process. A signal to a
    thread would end its process.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Return whether the process runs. Return False for an ended process, even before its parent has waited."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return True


def wait_until_gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _end(lines: Iterable[str]) -> None:
    processes: dict[int, tuple[int, str]] = {}
    containers: list[str] = []
    mounts: list[str] = []
    paths: list[Path] = []
    for line in lines:
        kind, _, rest = line.strip().partition(" ")
        if kind == "process":
            number, how, started = (*rest.split(), "")[:3]
            processes[int(number)] = int(how), started
        elif kind == "ended":
            processes.pop(int(rest), None)
        elif kind == "container":
            containers.append(rest)
        elif kind == "mount":
            mounts.append(rest)
        elif kind == "path":
            paths.append(Path(rest))

    own = {pid: end_with for pid, (end_with, started) in processes.items() if started == started_at(pid)}
    for pid, end_with in own.items():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, end_with)
    for pid in own:
        if not wait_until_gone(pid, 10):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_until_gone(pid, 5)
    if containers:
        subprocess.run(["docker", "rm", "--force", "--volumes", *containers], stdout=subprocess.DEVNULL, check=False)
    for mount in mounts:
        subprocess.run(["umount", "--lazy", "--quiet", mount], check=False)
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end(sys.stdin.readlines())
