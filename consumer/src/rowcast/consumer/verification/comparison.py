"""``rowcast verify``: compare primary and replica row by row, while both are live.

Every row of the primary is looked up on the replica by its key, and every key of the replica on the primary. Therefore
the engines may sort texts differently, and memory holds a chunk of rows. Differing rows are compared again a little
later, because the replica is slightly behind the primary.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from rowcast.consumer.events.row_layout import matches_any
from rowcast.consumer.replica.dialects import LIVE, TableNaming
from rowcast.consumer.verification.canonical_values import Canonical, canonical_form
from rowcast.consumer.verification.compared_table import ComparedDatabase, ComparedTable
from rowcast.shared.config.settings import Settings
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_store import written_shapes

# Differing rows are compared again after each pause, until no row differs.
_RECHECK_PAUSES_S = (0.1, 0.3, 1.0, 2.0, 4.0)
# Comparing a table stops at this number of differences.
_MAX_DIFFERENCES = 10_000
_MAX_NAMED_DIFFERENCES = 20
_RECHECK_CHUNK = 500

DifferenceKind = Literal["missing", "extra", "different"]


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
    differences, and ``differences`` has the first few. ``stopped``: the comparison stopped before the table's end,
    because of too many differences.
    """

    table: str
    rows: int
    missing: int
    extra: int
    different: int
    differences: tuple[Difference, ...]
    stopped: bool = False

    @property
    def equal(self) -> bool:
        """Return whether no row differs."""
        return not (self.missing or self.extra or self.different)


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The results of all tables."""

    tables: tuple[TableResult, ...]

    @property
    def equal(self) -> bool:
        """Return whether no row of any table differs."""
        return all(table.equal for table in self.tables)

    @property
    def rows(self) -> int:
        """Return the number of compared rows of the primary."""
        return sum(table.rows for table in self.tables)


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """The progress after a chunk of rows."""

    table: str
    rows: int
    differing: int


OnVerifyProgress = Callable[[VerifyProgress], None]


def verify(
    settings: Settings,
    replica: str,
    *,
    tables: Sequence[str] | None = None,
    on_progress: OnVerifyProgress | None = None,
) -> VerifyResult:
    """Compare the replica's tables with the primary's. ``tables``: shell patterns that choose among the tables.

    ``on_progress`` is called after every chunk of rows. Raise ConfigurationError and UnreachableError.
    """
    return verify_tables(settings, replica, LIVE, tables=tables, on_progress=on_progress)


def verify_tables(
    settings: Settings,
    replica: str,
    naming: TableNaming,
    *,
    tables: Sequence[str] | None = None,
    on_progress: OnVerifyProgress | None = None,
) -> VerifyResult:
    """Compare the tables that have the names of ``naming`` in the replica. See ``verify``."""
    options = settings.replica(replica)
    primary = ComparedDatabase(settings.require_primary(), "primary")
    other = ComparedDatabase(options, f"replica {replica!r}", naming)
    try:
        shapes = [s for s in written_shapes(primary.engine) if matches_any(s.full_name, options.tables)]
        chosen = [s for s in shapes if tables is None or matches_any(s.full_name, tables)]
        if tables is not None and not chosen:
            names = ", ".join(s.full_name for s in shapes) or "none"
            raise ConfigurationError(f"no table matches {', '.join(tables)}. Choose among the tables {names}")
        comparisons = (_Comparison(primary, other, shape, settings.table(shape), on_progress) for shape in chosen)
        return VerifyResult(tuple(comparison.run() for comparison in comparisons))
    finally:
        primary.close()
        other.close()


_CanonicalKey = tuple[Any, ...]


class _Comparison:
    """Compare one table of both databases."""

    def __init__(
        self,
        primary: ComparedDatabase,
        replica: ComparedDatabase,
        shape: TableShape,
        settings: TableSettings,
        on_progress: OnVerifyProgress | None,
    ) -> None:
        self._shape = shape
        self._primary = ComparedTable(primary, shape, is_replica=False, settings=settings)
        self._replica = ComparedTable(replica, shape, is_replica=True, settings=settings)
        self._forms: dict[str, Canonical] = {c.name: canonical_form(c.type) for c in shape.columns}
        self._on_progress = on_progress
        self._rows = 0
        self._found: dict[_CanonicalKey, Difference] = {}

    def run(self) -> TableResult:
        stopped = not (self._compare_primary_rows() and self._find_extra_rows())
        for pause in _RECHECK_PAUSES_S:
            if not self._found or stopped:
                break
            time.sleep(pause)
            self._recheck()
        found = list(self._found.values())
        counts = Counter(difference.kind for difference in found)
        return TableResult(
            self._shape.full_name,
            self._rows,
            missing=counts["missing"],
            extra=counts["extra"],
            different=counts["different"],
            differences=tuple(found[:_MAX_NAMED_DIFFERENCES]),
            stopped=stopped,
        )

    def _compare_primary_rows(self) -> bool:
        """Look every row of the primary up on the replica. Return False if there are too many differences."""
        for chunk in self._primary.rows():
            keys = [orjson.loads(key) for key, _ in chunk]
            found = self._by_key(self._replica.find(keys))
            for key, (_, image) in zip(keys, chunk, strict=True):
                self._compare(key, image, found.get(self._canonical_key(key)))
            self._rows += len(chunk)
            if not self._report_progress():
                return False
        return True

    def _find_extra_rows(self) -> bool:
        """Look every key of the replica up on the primary. Return False if there are too many differences."""
        for chunk in self._replica.row_keys():
            keys = [orjson.loads(key) for key, _ in chunk]
            found = self._by_key(self._primary.find(keys, only_keys=True))
            for key in keys:
                canonical = self._canonical_key(key)
                if canonical not in found:
                    self._found.setdefault(canonical, Difference("extra", key))
            if not self._report_progress():
                return False
        return True

    def _recheck(self) -> None:
        """Compare the rows that differ once more."""
        keys = [difference.key for difference in self._found.values()]
        self._found.clear()
        for start in range(0, len(keys), _RECHECK_CHUNK):
            some = keys[start : start + _RECHECK_CHUNK]
            ours = self._by_key(self._primary.find(some))
            theirs = self._by_key(self._replica.find(some))
            for key in some:
                canonical = self._canonical_key(key)
                if canonical in ours:
                    self._compare(key, ours[canonical], theirs.get(canonical))
                elif canonical in theirs:
                    self._found[canonical] = Difference("extra", key)

    def _compare(self, key: dict[str, Any], image: str, other: str | None) -> None:
        if other == image:
            return
        if other is None:
            self._found[self._canonical_key(key)] = Difference("missing", key)
            return
        ours, theirs = orjson.loads(image), orjson.loads(other)
        columns = tuple(
            name
            for name, form in self._forms.items()
            if ours[name] != theirs[name] and _canonical(form, ours[name]) != _canonical(form, theirs[name])
        )
        if columns:
            self._found[self._canonical_key(key)] = Difference("different", key, columns)

    def _by_key(self, pairs: Iterable[tuple[str, str]]) -> dict[_CanonicalKey, str]:
        return {self._canonical_key(orjson.loads(key)): image for key, image in pairs}

    def _canonical_key(self, key: dict[str, Any]) -> _CanonicalKey:
        return tuple(_canonical(self._forms[name], key[name]) for name in self._shape.primary_key)

    def _report_progress(self) -> bool:
        """Call ``on_progress``. Return False if the comparison is to stop."""
        if self._on_progress is not None:
            self._on_progress(VerifyProgress(self._shape.full_name, self._rows, len(self._found)))
        return len(self._found) < _MAX_DIFFERENCES


def _canonical(form: Canonical, value: Any) -> Any:
    return None if value is None else form(value)
