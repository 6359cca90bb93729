"""Print the result of a command to standard output, where log lines never go."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import orjson
import typer


def print_json(document: object, *, default: Callable[[Any], Any] | None = None) -> None:
    """Print the document as indented JSON. ``default`` converts values without a form in JSON."""
    print_line(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=default).decode())


def print_line(text: str) -> None:
    """Print a text and a line break at once. End the command with exit code 0 if the reader wants no more."""
    try:
        print(text, flush=True)  # noqa: T201  # the result
    except BrokenPipeError:
        # `head` has read enough. Without a new output, the interpreter would report the error again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
