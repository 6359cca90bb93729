"""Run a program on a terminal of 80 columns, and draw its output as the terminal would."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

_COLUMNS, _ROWS = 80, 60
_TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


@contextmanager
def on_terminal(
    command: list[str], cwd: Path, env: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[str]]]:
    """Run a program with a terminal. Yield the process, and its output piece by piece until its end.

    Skip the test in a container without terminals (``/dev/pts``).
    """
    try:
        ours, theirs = os.openpty()
    except OSError as error:
        pytest.skip(f"this machine has no terminals: {error}")
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    process = subprocess.Popen(command, cwd=cwd, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        yield process, _pieces(ours)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)
        os.close(ours)


def _pieces(terminal: int) -> Iterator[str]:
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            # Linux raises EIO when the last process has closed the terminal.
            return
        if not piece:
            return
        yield piece.decode(errors="replace")


def drawn(output: str) -> list[str]:
    """Return the lines that a terminal shows after this output. Raise ValueError for a sequence that it cannot draw."""
    lines, row, column = [""], 0, 0
    for arguments, final, carriage, newline, text in _TOKEN.findall(output):
        if carriage:
            column = 0
        elif newline:
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif text:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
        elif final == "A":
            row = max(0, row - int(arguments or 1))
        elif final == "K":
            lines[row] = ""
        elif final not in "mhl":
            raise ValueError(f"a terminal of the tests cannot draw {final!r}")
    return [line.rstrip() for line in lines]
