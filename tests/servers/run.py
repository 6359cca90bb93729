"""Run commands for an installation."""

from __future__ import annotations

import subprocess

from .server import ServerError


def run(command: list[str]) -> str:
    """Run a command and return its output. Raises ServerError with the end of the output if the command fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
    return done.stdout
