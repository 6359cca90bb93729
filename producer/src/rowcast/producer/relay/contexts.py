"""What an outbox row says of its transaction's context: a part for the messages' values, a part for their headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import orjson

from rowcast.producer.context import TRACE
from rowcast.shared.errors import DataError

Headers: TypeAlias = Sequence[tuple[str, bytes]]


def read_context(document: str | None) -> tuple[dict[str, Any] | None, Headers]:
    """The context as the application gave it, None if it gave none, and the W3C headers of the trace.

    Raises DataError, with the reason, if ``document`` is damaged.
    """
    if document is None:
        return None, []
    try:
        context = orjson.loads(document)
        headers = [(name, value.encode()) for name, value in context.pop(TRACE, {}).items()]
    except (orjson.JSONDecodeError, AttributeError, TypeError) as error:
        raise DataError(f"its context is damaged ({error}): {document[:120]!r}") from error
    return context or None, headers
