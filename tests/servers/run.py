"""Run commands for an installation, or to prepare a server."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .process import unprivileged
from .server import ServerError


def run(command: list[str], home: Path | None = None, *, cwd: Path | None = None) -> str:
    """Run a command and return its output. Raises ServerError with the end of the output if the command fails.

    ``home``: run it in this folder as the user of a server. ``cwd``: run it in this folder as the present user.
    """
    done = subprocess.run(
        command,
        cwd=home or cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **({} if home is None else unprivileged()),
    )
    if done.returncode != 0:
        raise ServerError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
    output: str = done.stdout
    return output
