"""Split the context in an outbox row into a part for the values of messages and a part for their headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import orjson

from rowcast.shared import row_values
from rowcast.shared.errors import DataError

TRACE = "rowcast.trace"
"""The member of the context that holds the W3C headers of the active span."""


Headers: TypeAlias = Sequence[tuple[str, bytes]]


def read_context(document: str | None) -> tuple[dict[str, Any] | None, Headers]:
    """Return the application's context or None, and the W3C headers of the trace.

    Raises DataError with the reason if ``document`` is damaged.
    """
    if document is None:
        return None, []
    try:
        context = orjson.loads(document)
        headers = [(name, value.encode()) for name, value in context.pop(TRACE, {}).items()]
    except (orjson.JSONDecodeError, AttributeError, TypeError) as error:
        raise DataError(f"its context is damaged{row_values.value_suffix(document)}") from error
    return context or None, headers
