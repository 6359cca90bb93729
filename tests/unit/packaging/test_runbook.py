"""Check that the runbook in docs/operations.md has a line for everything that the code can say, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from rowcast.consumer.events.position import ReplicaState
from rowcast.shared.cli import exit_codes
from rowcast.shared.errors import RowcastError
from rowcast.shared.process_end import STUCK
from support.project import ROOT
from support.sources import sources

RUNBOOK = (ROOT / "docs/operations.md").read_text("utf-8")
_CODE = re.compile(r"`([^`\n]+)`")

# The errors that stop a worker or relay, by the folders that raise them.
_DATA = {"DataError", "SuspectError", "ConflictError", "ValueRefusedError", "OrphanError"}
_STOPS = {
    "consumer/src/rowcast/consumer/debezium": _DATA,
    "consumer/src/rowcast/consumer/events": _DATA,
    "consumer/src/rowcast/consumer/reading": _DATA,
    "consumer/src/rowcast/consumer/replica": {*_DATA, "ConfigurationError"},
    "shared/src/rowcast/shared/kafka": _DATA,
    "producer/src/rowcast/producer/relay": {"DataError"},
}
# Errors of these modules are the reason of a failed snapshot, or come before any work begins.
_ELSEWHERE = ("snapshots/chunk_reader.py", "snapshots/resume_key.py", "dialects/__init__.py", "kafka/errors.py")


def section(title: str) -> str:
    """Return the part of the runbook under a heading."""
    return RUNBOOK.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> Iterator[list[str]]:
    """Yield the quotations in the first cell of each row of the tables."""
    for line in text.splitlines():
        if line.startswith("| ") and (quoted := _CODE.findall(line.split(" | ")[0])):
            yield quoted


QUOTED = [quoted for cells in first_cells(RUNBOOK) for quoted in cells]
MESSAGES = [quoted for quoted in QUOTED if " " in quoted]


def is_quoted(message: str) -> bool:
    """Return whether a line of the runbook quotes a part of the message."""
    return any(re.search(".*".join(map(re.escape, quoted.split("…"))), message) for quoted in MESSAGES)


def text_of(node: ast.expr, constants: Mapping[str, str]) -> str:
    """Return the text of an expression, with `…` for each part that is not known."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part, constants) for part in parts)
        case ast.FormattedValue(value=value):
            return text_of(value, constants)
        case ast.Name(id=name):
            return constants.get(name, "…")
        case ast.BinOp(left=left, right=right):
            return text_of(left, constants) + text_of(right, constants)
    return "…"


def raised_in(path: Path, names: set[str]) -> Iterator[str]:
    """Yield the message of each error that a module builds, if the module knows words of it."""
    tree = ast.parse(path.read_text("utf-8"))
    constants: dict[str, str] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            constants[statement.targets[0].id] = text_of(statement.value, constants)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names and node.args:
            message = text_of(node.args[0], constants)
            # Fewer words only say where, before the reason.
            if len(re.findall(r"\w+", message)) > 4:
                yield message


@cache
def messages() -> dict[str, str]:
    """Return all messages, with the module of each."""
    found: dict[str, str] = {}
    for folder, names in _STOPS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not str(path).endswith(_ELSEWHERE):
                found |= dict.fromkeys(raised_in(path, names), path.name)
    return found


def test_every_reason_for_a_stop_has_a_line() -> None:
    assert len(messages()) > 40
    missing = [f"{module}: {message}" for message, module in messages().items() if not is_quoted(message)]
    assert missing == []


@pytest.mark.parametrize("quoted", MESSAGES)
def test_every_quotation_exists_in_the_sources(quoted: str) -> None:
    for part in quoted.split("…"):
        assert part.strip(" '\"") in sources()


def test_every_state_of_a_replica_has_a_line() -> None:
    lines = [cells[0] for cells in first_cells(section("The state of a replica"))]
    assert set(get_args(ReplicaState)) <= set(lines)


def test_every_exit_code_has_a_line() -> None:
    lines = [cells[0] for cells in first_cells(section("Exit codes"))]
    codes = {exit_codes.WRONG_USE, exit_codes.UNREACHABLE, exit_codes.BUG, STUCK, *error_codes(RowcastError)}
    assert {str(code) for code in codes} <= set(lines)


def error_codes(error: type[RowcastError]) -> Iterator[int]:
    yield error.exit_code
    for derived in error.__subclasses__():
        yield from error_codes(derived)


def test_every_alert_has_a_line() -> None:
    alerts = (ROOT / "docs/how-to/monitoring.md").read_text("utf-8").split("Useful alerts")[1].split("\n\n")[1]
    names = set(re.findall(r"rowcast_\w+", alerts))
    assert len(names) > 6
    assert names <= set(re.findall(r"rowcast_\w+", section("Health checks and metrics")))
