"""Run ``rowcast`` with the given settings only, inside this process or in a new process."""

from __future__ import annotations

import atexit
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

from typer import rich_utils

from rowcast.shared.cli import logs, main
from servers.guard import Guard

_IN_ORDER_S = 30.0


def environment(**more: str) -> dict[str, str]:
    """Return the machine's environment without the variables of rowcast, for wide output without colour."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")}
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "GITHUB_ACTIONS", "PY_COLORS"):
        plain.pop(name, None)
    # The tests do not use TLS, and PyMySQL reads the system's certificates in 50 ms for each connection.
    no_certificates = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
    return {**plain, **no_certificates, "COLUMNS": "200", "NO_COLOR": "1", "PYTHONWARNINGS": "error", **more}


@cache
def _guard() -> Guard:
    """Return the test run's guard for processes that tests start themselves."""
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
    """Run a process until the block ends.

    SIGTERM ends the process, because ``rowcast demo`` handles SIGTERM and ends its child processes. The process also
    ends if the test run is killed.
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
            # Leaving the block waits for the process and closes the pipes.
            with process:
                pass
            _guard().forget_process(process.pid)


def rowcast(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, without: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``rowcast`` inside the current process and return its output and exit code.

    A new Python process takes a second of CPU to import everything, so most tests use this function.
    ``rowcast_process`` is for tests of the process itself. The working directory, the environment, the logging
    configuration and the mask of secrets are restored afterwards.

    ``without``: a package to hide, as if an extra were not installed. rowcast's modules may have imported the package
    before. ``test_wheel.py`` runs commands in an environment that never had the extras.
    """
    out, err = _text_stream(), _text_stream()
    with (
        patch.dict(os.environ, environment(**(env or {})), clear=True),
        patch.object(sys, "argv", ["rowcast", *arguments]),
        patch.object(rich_utils, "FORCE_TERMINAL", None),
        chdir(cwd),
        _own_modules(cwd),
        _hidden(without),
        _own_logging(),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        else:
            code = 0
    assert code is None or isinstance(code, int), code
    return subprocess.CompletedProcess(["rowcast", *arguments], code or 0, _written(out), _written(err))


def _text_stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)


def _written(stream: io.TextIOWrapper) -> str:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()


@contextmanager
def _own_modules(folder: Path) -> Iterator[None]:
    """Forget the modules imported from the command's working directory.

    The next test may have a different module of the same name.
    """
    names = {path.stem for path in folder.glob("*.py")}
    hidden = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    try:
        with patch.object(sys, "path", list(sys.path)):
            yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


@contextmanager
def _hidden(package: str | None) -> Iterator[None]:
    """Let imports of the package fail."""
    if package is None:
        yield
        return
    modules = {name: module for name, module in sys.modules.items() if f"{name}.".startswith(f"{package}.")}
    # An import of a name that is None raises ModuleNotFoundError.
    missing: dict[str, Any] = dict.fromkeys((*modules, package))
    sys.modules.update(missing)
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(modules)


@contextmanager
def _own_logging() -> Iterator[None]:
    """Undo a command's changes to the logging of the process, and forget the secrets collected by the mask."""
    root, own = logging.getLogger(), logging.getLogger("rowcast")
    handlers, levels = list(root.handlers), (root.level, own.level)
    try:
        with patch.object(logs.mask, "_secrets", set()), patch.object(logs.mask, "_any", None):
            yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        own.setLevel(levels[1])


def rowcast_process(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run ``rowcast`` in a new process, as a user does.

    After ``timeout`` seconds the process gets SIGTERM, and TimeoutExpired is raised.
    """
    program = "from rowcast.shared.cli import main; main()"
    command = [sys.executable, "-c", program, *arguments]
    with started(command, cwd, environment(**(env or {})), stdout=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def write_configuration(folder: Path, source: str, bootstrap: str, primary: str, replicas: Mapping[str, str]) -> None:
    """Write ``rowcast.toml`` with these servers. ``replicas``: the URLs by name."""
    sections = [
        f'source = "{source}"',
        f'[kafka]\n"bootstrap.servers" = "{bootstrap}"',
        f'[primary]\nurl = "{primary}"',
    ]
    sections += [f'[replicas.{name}]\nurl = "{url}"' for name, url in replicas.items()]
    (folder / "rowcast.toml").write_text("\n".join(sections))


def succeed(folder: Path, *arguments: str) -> None:
    """Run ``rowcast`` inside this process in a folder, and require exit code 0."""
    result = rowcast(*arguments, cwd=folder)
    assert result.returncode == 0, f"{arguments}: {result.stdout}\n{result.stderr}"
