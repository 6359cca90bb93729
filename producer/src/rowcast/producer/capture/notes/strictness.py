"""Refuse statements with unknown changed rows, or warn of such statements."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any, Literal, get_args

from rowcast.shared.errors import CaptureError, ConfigurationError

Strictness = Literal["warn", "raise"]

_log = logging.getLogger("rowcast.capture")
_MAX_LOGGED = 1_000

# Texts, PostgreSQL's dollar quotes, numbers that are no part of a name, and MySQL's texts in double quotes. On other
# engines a name in double quotes may match too.
_ESCAPED_QUOTE = re.compile(r"\\['\"]")
_LITERALS = re.compile(
    r"'(?:[^'\\]|''|\\.)*(?:'|$)|\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|$)"
    r"|(?<![\w$.\"`])\d[\w.]*|(?P<operator>[=<>(,]\s*|\blike\s+)\"(?:[^\"\\]|\"\"|\\.)*(?:\"|$)",
    re.DOTALL | re.IGNORECASE,
)
_NAME_THE_ROWS = "Name the rows with execution_options(rowcast={table: [key, …]})"
_NOT_THE_APPLICATION = ("rowcast.producer.", "sqlalchemy.")
"""The modules between the application's line and this module."""


class CaptureWarning(UserWarning):
    """Warn of a statement with unknown changed rows on a captured table. The changes will not be published."""


class StrictnessRule:
    """Refuse a change that cannot be captured, or warn of it.

    ``strict``: ``"raise"`` raises CaptureError, ``"warn"`` warns with CaptureWarning. Raises ConfigurationError for any
    other value.
    """

    def __init__(self, strict: Any) -> None:
        if strict not in get_args(Strictness):
            raise ConfigurationError(f"strict={strict!r}: it must be 'warn' or 'raise'.")
        self._strict: Strictness = strict
        self._logged: set[str] = set()

    def refuse_or_warn(self, table: str, what: str, statement: str) -> None:
        """Refuse or warn of a statement.

        Call the method before the statement runs, wherever possible. ``table``: the table's full name. ``what``: the
        kind of statement. ``statement``: the text. The message names all three and the next step. Raises CaptureError
        if strict.
        """
        self._raise_or_warn_of_rows(
            f"{what} changes {table}, and the capture cannot find out which rows", statement, _NAME_THE_ROWS
        )

    def refuse_or_warn_of_call(self, statement: str, *, may_commit: bool) -> None:
        """Refuse or warn of SQL text that calls code of the database, as ``refuse_or_warn`` does.

        ``may_commit``: the code may commit, so that the application cannot name its rows.
        """
        self._raise_or_warn_of_rows(
            "a procedure or a prepared statement may change captured tables, and the capture does not see its rows",
            statement,
            "Capture its tables by triggers" if may_commit else _NAME_THE_ROWS,
        )

    def _raise_or_warn_of_rows(self, fault: str, statement: str, step: str) -> None:
        self.raise_or_warn(
            f"not captured: {fault}: {_without_literals(statement)[:300]}. {step}, or leave them out of the capture "
            "with execution_options(rowcast='ignore')."
        )

    def raise_or_warn(self, message: str) -> None:
        """Raise CaptureError with the message if strict, or warn."""
        if self._strict == "raise":
            raise CaptureError(message)
        self._log_once(message)
        frame = _application_frame()
        registry = frame.f_globals.setdefault("__warningregistry__", {})
        place = frame.f_code.co_filename, frame.f_lineno, _module_of(frame)
        warnings.warn_explicit(message, CaptureWarning, *place, registry)

    def _log_once(self, message: str) -> None:
        # Services show log records rather than warnings. An application may repeat a statement for ever.
        if message not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(message)
            _log.warning("%s", message)


def _without_literals(statement: str) -> str:
    """Return the statement in one line, with … in place of texts and numbers, because a log must not hold values."""
    if _ESCAPED_QUOTE.search(statement):
        # MySQL escapes a quote so. Elsewhere the quote ends the text, and what follows cannot be split for both.
        statement = statement.partition("'")[0] + "'"
    return " ".join(_LITERALS.sub(lambda found: f"{found['operator'] or ''}…", statement).split())


def _application_frame() -> FrameType:
    """Return the frame in which the application executes the statement, because the warning names the line."""
    return next(
        (frame for frame in _frames() if not _module_of(frame).startswith(_NOT_THE_APPLICATION)),
        sys._getframe(1),
    )


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _frames() -> Iterator[FrameType]:
    """Yield the present frames from the innermost on, and then the frames of SQLAlchemy's suspended coroutine."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
    if (greenlet := sys.modules.get("greenlet")) is not None and (parent := greenlet.getcurrent().parent) is not None:
        frame = parent.gr_frame
        while frame is not None:
            yield frame
            frame = frame.f_back
