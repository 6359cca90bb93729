"""Decide whether messages may show values of rows.

Logs are kept longer than rows, and other people read them. Without ``log_values = true`` in the configuration, no
message of rowcast has a value or a key of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from json import JSONDecodeError

_shown: ContextVar[bool] = ContextVar("rowcast_row_values", default=False)

LEFT_OUT = "(values left out, log_values = true shows them)"
"""The note in a message from which a value was removed."""


def are_shown() -> bool:
    """Return whether messages of this thread may show values of rows."""
    return _shown.get()


def show(shown: bool) -> None:
    """Show or hide the values of rows in the messages of this thread from now on."""
    _shown.set(shown)


@contextmanager
def shown_if(shown: bool) -> Iterator[None]:
    """Show or hide the values of rows in the messages of this thread until the block ends."""
    token = _shown.set(shown)
    try:
        yield
    finally:
        _shown.reset(token)


class UnsuitableValueError(ValueError):
    """Refuse a value, with a message that shows the value only if values are shown."""


def text_of(value: object, kind: str = "a value") -> str:
    """Return the value for the subject of a sentence, or ``kind`` if values are hidden.

    ``kind``: a noun with its article.
    """
    return f"{kind.partition(' ')[2]} {value!r}" if are_shown() else kind


def key_suffix(key: bytes) -> str:
    """Return ``, key …`` for a message that names a row, or nothing if values are hidden."""
    return f", key {_shortened(key.decode(errors='replace'), 200)}" if are_shown() else ""


def value_suffix(value: object, longest: int = 120) -> str:
    """Return a colon and the value for the end of a message, or nothing if values are hidden."""
    if not are_shown():
        return ""
    return f": {_shortened(value, longest)!r}" if isinstance(value, str) else f": {value!r:.{longest}}"


def value_error(error: Exception) -> str:
    """Return the message of an error about a value. Errors of Python and of libraries repeat the value."""
    if are_shown() or isinstance(error, UnsuitableValueError | JSONDecodeError):
        return str(error)
    return f"{type(error).__name__} {LEFT_OUT}"


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
