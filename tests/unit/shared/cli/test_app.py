"""Test help, version and shell completion, and commands that cannot be loaded."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rowcast.shared.cli import app
from support.command_line import environment, rowcast

COMMANDS = (
    "demo", "init", "check", "relay", "worker", "snapshot", "rebuild", "migrate", "promote", "verify", "status",
    "alerts", "sink", "trace", "replay",
)  # fmt: skip
GROUPS = {
    "topics": ("list", "tail", "search", "show"),
    "dlq": ("list", "show", "retry", "drop"),
    "triggers": ("install", "drop", "show"),
}
LAST = ("instrument",)
EACH = (*COMMANDS, *LAST, *(f"{group} {command}" for group, commands in GROUPS.items() for command in commands))
OPTION = re.compile(r"^│ +\*? *(--[a-z-]+)", re.MULTILINE)


def test_the_root_names_every_command_and_the_exit_codes(tmp_path: Path) -> None:
    result = rowcast("--help", cwd=tmp_path)
    assert result.returncode == 0
    for command in (*COMMANDS, *GROUPS, *LAST):
        assert f"│ {command} " in result.stdout
    assert "2 wrong use or configuration" in result.stdout
    assert "--install-completion" in result.stdout


@pytest.fixture(scope="module", params=EACH)
def help_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return a command and its help."""
    result = rowcast(*request.param.split(), "--help", cwd=tmp_path_factory.mktemp("help"))
    assert result.returncode == 0
    return request.param, result.stdout


def test_help_shows_the_environment_variable_of_every_option(help_of: tuple[str, str]) -> None:
    # Split the help into a text for each option.
    entries = re.split(r"(?m)^│ +\*? *(?=--[a-z]|\w+ +<?REPLICA)", help_of[1])[1:]
    silent = [entry for entry in entries if "env var: ROWCAST_" not in entry]
    assert {name for entry in silent for name in re.findall(r"^--[a-z-]+", entry)} == {"--help", "--version"}


@pytest.mark.parametrize("command", ["init", "instrument"])
def test_the_help_of_a_new_users_commands_is_whole_on_80_columns(tmp_path: Path, command: str) -> None:
    result = rowcast(command, "--help", cwd=tmp_path, env={"COLUMNS": "80"})
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) == 80


def test_every_command_takes_the_common_options(help_of: tuple[str, str]) -> None:
    found = set(OPTION.findall(help_of[1]))
    assert {"--log-format", "--log-level", "--version"} <= found
    # The demo writes a separate configuration.
    assert ("--config" in found) == (help_of[0] != "demo")


@pytest.mark.parametrize("arguments", [("--version",), ("worker", "--version")])
def test_the_version_is_shown_by_the_root_and_by_every_command(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = rowcast(*arguments, cwd=tmp_path)
    assert result.returncode == 0
    assert re.fullmatch(r"rowcast \d+\.\d+\.\d+\S*\n", result.stdout)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("statsu",), "Did you mean 'status'?"),
        (("xyz",), "No such command 'xyz'."),
        (("--config", "x.toml", "check"), "Give --config behind the command"),
        (("--log-level=debug", "check"), "Give --log-level behind the command"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(tmp_path: Path, arguments: tuple[str, ...], hint: str) -> None:
    result = rowcast(*arguments, cwd=tmp_path)
    assert (result.returncode, hint in result.stderr) == (2, True), result.stderr


def complete(directory: Path, words: str, index: int) -> list[str]:
    """Return bash's completions of the word at ``index``."""
    asked = {"_ROWCAST_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(index)}
    return rowcast(cwd=directory, env=asked).stdout.split()


def test_the_shell_completes_commands_and_options(tmp_path: Path) -> None:
    assert complete(tmp_path, "rowcast ", 1) == [*COMMANDS, *GROUPS, *LAST]
    assert complete(tmp_path, "rowcast worker --log-", 2) == ["--log-format", "--log-level"]


def test_completion_code_is_shown_for_a_shell(tmp_path: Path) -> None:
    # Typer asks for the name of the shell if it cannot detect a shell.
    unseen = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    result = rowcast("--show-completion", "bash", cwd=tmp_path, env=unseen)
    assert result.returncode == 0, result.stderr
    assert "_ROWCAST_COMPLETE=complete_bash" in result.stdout


def test_a_command_that_cannot_be_loaded_is_in_the_help_and_names_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("relay", "rowcast.not_there:relay", app.COMMANDS)
    monkeypatch.setattr(app, "entry_points", lambda **_: [broken])
    with pytest.raises(SystemExit) as ended:
        app.application()(["--help"])
    assert ended.value.code == 0
    assert "Not available: No module named 'rowcast.not_there'" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        app.application()(["relay"])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "the command 'relay' cannot be loaded" in printed
    assert "pip install" in printed


def test_ctrl_c_during_the_imports_has_no_traceback(tmp_path: Path) -> None:
    """A module that is imported first sends the signal, so that it always comes in the middle of the imports."""
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, "-c", "from rowcast.shared.cli import main; main()", "status"]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**environment(), "PYTHONPATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")
