"""Find the prose of the sources: docstrings, comments and messages.

    python -m support.prose FILE…

The command prints the prose of each file as JSON. ``prose_of_all`` runs it, because Hypothesis parses sources in a
thread of its own, and CPython 3.11 fails with a SystemError where two threads of a process parse at the same time.
"""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from support.project import TESTS

FORBIDDEN = re.compile(
    r"\b(tells?|told|untold|mend(s|ed)?|anew|liken\w*|dearer|dear|heed|in vain|stands? in the way|goes before|so many"
    r"|that there is|befalls?)\b",
    re.IGNORECASE,
)

_DIRECTIVE = re.compile(r"#\s*(noqa|type:|fmt:|pyright|pragma)")
_LOG_LEVELS = frozenset(("debug", "info", "warning", "error", "critical", "exception"))
_TEXT_KEYWORDS = frozenset(("help", "description"))


def prose_of_all(paths: Iterable[Path]) -> dict[Path, list[tuple[int, str]]]:
    """Return the (line, text) pairs of each Python file. A process of its own parses the files."""
    command = [sys.executable, "-m", "support.prose", *map(str, paths)]
    printed = subprocess.run(command, cwd=TESTS, check=True, capture_output=True, text=True).stdout
    return {Path(name): [(line, text) for line, text in found] for name, found in json.loads(printed).items()}


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each docstring, comment and message of a Python file."""
    source = path.read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if docstring := ast.get_docstring(node):
                yield getattr(node, "lineno", 1), without_code(docstring)
            # A string after an attribute describes the attribute.
            for statement in node.body:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    yield statement.lineno, without_code(str(statement.value.value))
        elif isinstance(node, ast.Call):
            yield from _messages(node)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not _DIRECTIVE.match(token.string):
            yield token.start[0], without_code(token.string)


def without_code(text: str) -> str:
    """Return the text without the code in backticks."""
    return re.sub(r"``[^`]+``|`[^`\n]+`", "", text)


def _messages(call: ast.Call) -> Iterator[tuple[int, str]]:
    """Yield the texts that a user reads: of errors, log lines, findings, help and descriptions."""
    arguments = [keyword.value for keyword in call.keywords if keyword.arg in _TEXT_KEYWORDS]
    if _is_for_users(call.func):
        arguments += call.args
    for argument in arguments:
        for node in ast.walk(argument):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.lineno, without_code(node.value)


def _is_for_users(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr in _LOG_LEVELS
    return isinstance(function, ast.Name) and (function.id.endswith("Error") or function.id == "Finding")


if __name__ == "__main__":
    print(json.dumps({name: list(prose_of(Path(name))) for name in sys.argv[1:]}))
