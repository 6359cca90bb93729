"""The tables that a rebuild fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rowcast.consumer.replica.dialects import TableNaming
from rowcast.shared.config.settings import Settings


@dataclass(frozen=True, slots=True)
class FreshTarget:
    """Where the rows of a rebuild go.

    ``source``: the value of ``source`` in the worker's tables. ``naming``: the names of the tables. ``skip``: the
    messages and transactions to leave out.
    """

    settings: Settings
    replica: str
    source: str
    naming: TableNaming
    skip: Sequence[str] = ()

    @property
    def command(self) -> str:
        """Return the command line that goes on with the rebuild."""
        return f"rowcast rebuild {self.replica}"
