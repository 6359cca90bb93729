"""Follow the tutorial as printed: write every file of the page and run every command, in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.command_line import environment, rowcast, started
from support.project import ROOT

PAGE = ROOT / "docs" / "tutorial" / "index.md"

_BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^>]*) -->\n\n)?"
    r"```\w+(?: title=\"(?P<file>[^\s\"]+)(?P<appended> \(appended\))?\")?\n"
    r"(?P<text>.*?)```",
    re.DOTALL,
)
_INSTALLS = ("python -m venv", ". .venv/bin/activate", "pip install")
_SHELL = re.compile(r"[|<>$;&'\"]")
"""Marks of the shell, for which a command needs a shell."""
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Block:
    """Hold a code block of the page. ``note``: the comment before the block, about the way to run the commands."""

    note: str
    file: str | None
    appended: bool
    text: str

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each command with the lines of output on the page."""
        command, shown = "", list[str]()
        for line in self.text.splitlines():
            if line.startswith("$ "):
                if command:
                    yield command, shown
                command, shown = line.removeprefix("$ "), []
            else:
                shown.append(line)
        if command:
            yield command, shown


BLOCKS = [
    Block(match["note"] or "", match["file"], bool(match["appended"]), match["text"])
    for match in _BLOCK.finditer(PAGE.read_text("utf-8"))
]


class Reader:
    """Follow the page in a single directory and environment."""

    def __init__(self, directory: Path, processes: ExitStack) -> None:
        self._directory = directory
        self._processes = processes
        self._env = environment(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def follow(self, block: Block) -> None:
        if block.file is not None:
            self._write(block.file, block.text, appended=block.appended)
            return
        for command, shown in block.commands():
            if command.startswith(_INSTALLS):
                continue
            if command.startswith("export "):
                self._export(command)
            elif block.note.startswith("in the background"):
                self._start(command, block.note)
            else:
                self._run(command, shown, block.note)

    def _write(self, name: str, text: str, *, appended: bool) -> None:
        path = self._directory / name
        path.write_text(path.read_text("utf-8") + text if appended else text, "utf-8")

    def _export(self, command: str) -> None:
        name, value = command.removeprefix("export ").split("=", 1)
        self._env[name] = self._shell(f"printf %s {value}").stdout

    def _start(self, command: str, note: str) -> None:
        self._processes.enter_context(
            started(command.split(), self._directory, self._env, stderr=subprocess.DEVNULL),
        )
        if "file" in note:
            awaited = self._directory / note.split("file ")[1].split()[0]
            until = time.monotonic() + _PATIENCE_S
            while not (awaited.exists() and awaited.read_text()):
                assert time.monotonic() < until, f"{command!r} has not written {awaited.name}"
                time.sleep(0.05)

    def _run(self, command: str, shown: list[str], note: str) -> None:
        expected = int(note.removeprefix("exit code ")) if note.startswith("exit code") else 0
        done = self._shell(command)
        until = time.monotonic() + _PATIENCE_S
        while note.startswith("repeated") and done.returncode != expected and time.monotonic() < until:
            done = self._shell(command)
        assert done.returncode == expected, f"{command!r}:\n{done.stdout}\n{done.stderr}"
        assert shown == done.stdout.splitlines() or not shown

    def _shell(self, command: str) -> subprocess.CompletedProcess[str]:
        program, *arguments = command.split()
        if program == "rowcast" and not _SHELL.search(command):
            # Inside this process, because a new Python process takes a second to import everything.
            return rowcast(*arguments, cwd=self._directory, env=self._env)
        return subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self._directory,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def test_every_file_and_every_command_of_the_tutorial_works_as_printed(tmp_path: Path) -> None:
    with ExitStack() as processes:
        reader = Reader(tmp_path, processes)
        for block in BLOCKS:
            reader.follow(block)


def test_the_page_has_what_the_test_looks_for() -> None:
    commands = [command for block in BLOCKS if block.file is None for command, _ in block.commands()]
    assert {"rowcast check", "rowcast relay --once", "rowcast verify copy"} <= {*commands}
    assert [block.file for block in BLOCKS if block.appended] == ["shop.py"]


@pytest.mark.parametrize("command", [c for b in BLOCKS for c, _ in b.commands() if c.startswith("pip install")])
def test_the_extras_that_the_page_installs_exist(command: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = re.search(r"\[(.*)\]", command)
    assert named is not None
    assert set(named[1].split(",")) <= extras.keys()
