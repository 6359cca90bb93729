"""Ends what a test run started, however the run ends.

The guard is a process of its own that reads from a pipe which processes, containers and folders there are. When the
pipe closes, because the run is over or was killed, it ends them and removes their folders. There is no other way of
cleaning up, so the way that is taken after a SIGKILL is the one taken every day.
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
        # A session of its own: Ctrl-C in the terminal must reach the test run, not what cleans up after it.
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        self._lock = threading.RLock()
        self._closed = False

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Within it something is started and then watched: nothing starts once the guard is closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the servers are being ended; no other is started")
            yield

    def watch_process(self, pid: int, end_with: signal.Signals) -> None:
        self._write(f"process {pid} {int(end_with)}")

    def forget_process(self, pid: int) -> None:
        self._write(f"ended {pid}")

    def watch_container(self, name: str) -> None:
        self._write(f"container {name}")

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


def is_alive(pid: int) -> bool:
    """False too for a process that has ended and that nobody has waited for."""
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
    processes: dict[int, int] = {}
    containers: list[str] = []
    paths: list[Path] = []
    for line in lines:
        kind, _, rest = line.strip().partition(" ")
        if kind == "process":
            numbers = rest.split()
            processes[int(numbers[0])] = int(numbers[1])
        elif kind == "ended":
            processes.pop(int(rest), None)
        elif kind == "container":
            containers.append(rest)
        elif kind == "path":
            paths.append(Path(rest))

    for pid, end_with in processes.items():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, end_with)
    for pid in processes:
        if not wait_until_gone(pid, 10):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_until_gone(pid, 5)
    if containers:
        subprocess.run(["docker", "rm", "--force", "--volumes", *containers], stdout=subprocess.DEVNULL, check=False)
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end(sys.stdin.readlines())
