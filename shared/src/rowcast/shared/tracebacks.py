"""Write tracebacks for log lines, without values of rows unless ``row_values`` are shown.

A driver's error and its SQLAlchemy error repeat the statement's parameters, and errors of Python repeat values.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from rowcast.shared import row_values
from rowcast.shared.errors import RowcastError

# Errors about code, modules and files.
_PLAIN = (ImportError, AttributeError, NameError, NotImplementedError, OSError, AssertionError, RecursionError)
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def format_error(error: BaseException) -> str:
    """Return the message of any error. Without values if they are hidden."""
    # A command's own imports come later, while the collector pauses.
    from sqlalchemy import exc

    from rowcast.shared.database import driver_messages

    if isinstance(error, exc.DBAPIError):
        return driver_messages.message(error)
    if row_values.are_shown() or isinstance(error, (RowcastError, *_PLAIN)):
        return str(error)
    return f"{type(error).__name__} {row_values.LEFT_OUT}"


def format_traceback(error: BaseException) -> str:
    """Return the traceback of an error and of its causes, as Python writes them."""
    if row_values.are_shown():
        return "".join(traceback.format_exception(error)).rstrip("\n")
    return "".join(_parts(error)).rstrip("\n")


def _parts(error: BaseException) -> Iterator[str]:
    chain = list(_chain(error))
    for one, link in reversed(chain):
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(one.__traceback__)
        yield f"{type(one).__module__}.{type(one).__qualname__}: {format_error(one)}\n"
        yield link


def _chain(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """Yield the error and its causes, each with the sentence about the next error."""
    seen: set[int] = set()
    link = ""
    next_: BaseException | None = error
    while next_ is not None and id(next_) not in seen:
        seen.add(id(next_))
        yield next_, link
        link = _CONTEXT if next_.__cause__ is None else _CAUSE
        next_ = next_.__cause__ or (None if next_.__suppress_context__ else next_.__context__)
