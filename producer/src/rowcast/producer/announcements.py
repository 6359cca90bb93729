"""What the capture says of changes that it cannot see."""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

from rowcast.shared.errors import CaptureError, ConfigurationError

Strictness = Literal["warn", "raise"]


class CaptureWarning(UserWarning):
    """A statement changes a captured table in a way that this capture cannot see: its rows will not be published."""


class Announcer:
    """Tells of a change that cannot be seen: by a CaptureWarning (``strict="warn"``) or a CaptureError (``"raise"``).

    Raises ConfigurationError if ``strict`` is neither.
    """

    def __init__(self, strict: Any) -> None:
        if strict not in get_args(Strictness):
            raise ConfigurationError(f"strict={strict!r}: it must be 'warn' or 'raise'.")
        self._strict: Strictness = strict

    def unseen(self, table: str, what: str, statement: str) -> None:
        """Before the statement runs wherever that can be: by table and statement, with the mend.

        Raises CaptureError if strict.
        """
        message = (
            f"not captured: {what} changes {table}, and which rows it changed cannot be told: "
            f"{' '.join(statement.split())[:300]}. Name its rows, execution_options(rowcast={{table: [key, …]}}), or "
            "say that they shall not be captured, execution_options(rowcast='ignore')."
        )
        if self._strict == "raise":
            raise CaptureError(message)
        warnings.warn(message, CaptureWarning, stacklevel=2)
