"""What the capture says of changes that it cannot see."""

from __future__ import annotations

import warnings


class CaptureWarning(UserWarning):
    """A statement changes a captured table in a way that this capture cannot see: its rows will not be published."""


def warn_of(table: str, what: str, statement: str) -> None:
    """Warns, by table and statement."""
    warnings.warn(
        f"not captured: {what} changes {table}, and which rows it changed cannot be told: "
        f"{' '.join(statement.split())[:300]}",
        CaptureWarning,
        stacklevel=2,
    )
