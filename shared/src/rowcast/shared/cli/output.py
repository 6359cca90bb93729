"""Print the result of a command to standard output, where log lines never go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson


def print_json(document: object, *, default: Callable[[Any], Any] | None = None) -> None:
    """Print the document as indented JSON. ``default`` converts values without a form in JSON."""
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=default).decode())  # noqa: T201  # the result
