"""Runs ``rowcast`` as a user does: a process of its own, with no settings but those given."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

from servers.guard import Guard

_IN_ORDER_S = 30.0


def environment(**more: str) -> dict[str, str]:
    """The machine's environment without rowcast's own variables, wide and without colour."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")}
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "GITHUB_ACTIONS", "PY_COLORS"):
        plain.pop(name, None)
    return {**plain, "COLUMNS": "200", "NO_COLOR": "1", "PYTHONWARNINGS": "error", **more}


@cache
def _guard() -> Guard:
    """The test run's own, for processes that are begun one by one."""
    guard = Guard()
    atexit.register(guard.close)
    return guard


@contextmanager
def started(
    command: list[str],
    cwd: Path,
    env: Mapping[str, str] | None = None,
    *,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.PIPE,
) -> Iterator[subprocess.Popen[str]]:
    """A process for the length of the block at most. SIGTERM ends it: a demo then ends the processes that it has begun.

    It ends, too, when the test run is killed.
    """
    with _guard().starting():
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=stdout, stderr=stderr, text=True)
        _guard().watch_process(process.pid, signal.SIGTERM)
    try:
        yield process
    finally:
        try:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                process.communicate(timeout=_IN_ORDER_S)
        except subprocess.TimeoutExpired:
            process.kill()
        finally:
            # Waits, and closes the pipes.
            with process:
                pass
            _guard().forget_process(process.pid)


def rowcast(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    without: str | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """``without``: a module that this process cannot import, as if its extra were not installed.

    What takes longer than ``timeout`` is ended in order, and raises TimeoutExpired.
    """
    hidden = f"sys.modules[{without!r}] = None; " if without else ""
    program = f"import sys; {hidden}from rowcast.shared.cli import main; main()"
    command = [sys.executable, "-c", program, *arguments]
    with started(command, cwd, environment(**(env or {})), stdout=subprocess.PIPE) as process:
        out, told = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(command, process.returncode, out, told)
