"""The results of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


class VerifyStoppedError(Exception):
    """The comparison was stopped before its end."""


DifferenceKind = Literal["missing", "extra", "different"]

Verdict = Literal["equal", "different", "behind", "nothing compared"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A differing row: ``missing`` in the replica, ``extra`` in the replica, or ``different`` in some columns."""

    kind: DifferenceKind
    key: dict[str, Any]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableResult:
    """The result for one table.

    ``rows``: the number of compared rows of the primary. ``missing``, ``extra`` and ``different`` count the
    differences, and ``differences`` names them. ``behind``: the number of rows that differ because the replica has not
    applied their changes yet. ``stopped``: the comparison stopped before the table's end, because of too many
    differences. ``view``: what of the primary was not compared, because the replica's view does not take it, or "".
    """

    table: str
    rows: int
    missing: int
    extra: int
    different: int
    differences: tuple[Difference, ...]
    stopped: bool = False
    behind: int = 0
    view: str = ""

    @property
    def equal(self) -> bool:
        """Return whether no row differs."""
        return not (self.differing or self.behind)

    @property
    def differing(self) -> int:
        """Return the number of rows that differ at one position."""
        return self.missing + self.extra + self.different

    @property
    def columns(self) -> dict[str, int]:
        """Return how many rows differ in each column, the most frequent column first."""
        counted = Counter(column for difference in self.differences for column in difference.columns)
        return dict(counted.most_common())


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The results of all tables. ``reason``: why the replica is behind, or None."""

    tables: tuple[TableResult, ...]
    reason: str | None = None

    @property
    def verdict(self) -> Verdict:
        """Return the result in a word."""
        if any(table.differing for table in self.tables):
            return "different"
        if any(table.behind for table in self.tables):
            return "behind"
        return "equal" if self.rows else "nothing compared"

    @property
    def equal(self) -> bool:
        """Return whether rows were compared, and no row of any table differs."""
        return self.verdict == "equal"

    @property
    def rows(self) -> int:
        """Return the number of compared rows of the primary."""
        return sum(table.rows for table in self.tables)


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """The progress.

    ``rows``: the compared rows of the primary. ``of``: the rows of all tables as the database estimates them.
    ``differing``: the rows that differ so far. ``s``: seconds since the start.
    """

    table: str
    rows: int
    of: int
    differing: int
    s: float


OnVerifyProgress = Callable[[VerifyProgress], None]
