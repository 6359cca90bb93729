"""``rowcast verify``: compares primary and replica row by row, while both are live.

Every row of the primary is looked up on the replica by its key, and every key of the replica on the primary: neither
engine's order of texts matters, and memory holds a chunk of rows. Rows that differ are looked at again a little later
before they count, because the replica is behind the primary by a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import orjson

from rowcast.consumer.canonical import Canonical, canonical_form
from rowcast.consumer.verify_side import Side, SideTable
from rowcast.consumer.written_shapes import written_shapes
from rowcast.shared.config import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.shapes import TableShape
from rowcast.shared.table_settings import TableSettings

# Rows that differ are looked at again after these pauses, as long as any does.
_LOOK_AGAIN_S = (0.1, 0.3, 1.0, 2.0, 4.0)
# More rows than this need not be named, nor looked at again.
_MOST_DIFFERENCES = 10_000
_NAMED = 20

Kind = Literal["missing", "extra", "different"]


@dataclass(frozen=True, slots=True)
class Difference:
    """``missing``: not in the replica. ``extra``: not in the primary. ``columns``: what differs."""

    kind: Kind
    key: dict[str, Any]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableResult:
    """``rows``: of the primary, compared. ``differences`` are the first ones; ``stopped``: there were so many that the
    table was not compared to its end."""

    table: str
    rows: int
    missing: int
    extra: int
    different: int
    differences: tuple[Difference, ...]
    stopped: bool = False

    @property
    def equal(self) -> bool:
        return not (self.missing or self.extra or self.different)


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What was found, table by table."""

    tables: tuple[TableResult, ...]

    @property
    def equal(self) -> bool:
        return all(table.equal for table in self.tables)

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """Told after every chunk of rows."""

    table: str
    rows: int
    differing: int


OnProgress = Callable[[VerifyProgress], None]


def verify(
    settings: Settings,
    replica: str,
    *,
    tables: Sequence[str] | None = None,
    on_progress: OnProgress | None = None,
) -> VerifyResult:
    """Compares the tables that the replica is to have; ``tables``: shell patterns that choose among them.

    Raises ConfigurationError, UnreachableError.
    """
    options = settings.replica(replica)
    primary = Side(settings.require_primary(), "primary")
    other = Side(options, f"replica {replica!r}")
    try:
        shapes = [s for s in written_shapes(primary.engine) if _matches(s.full_name, options.tables)]
        chosen = [s for s in shapes if tables is None or _matches(s.full_name, tables)]
        if tables is not None and not chosen:
            raise ConfigurationError(
                f"no table matches {', '.join(tables)}; there are: {', '.join(s.full_name for s in shapes) or 'none'}"
            )
        comparisons = (_Comparison(primary, other, shape, settings.table(shape), on_progress) for shape in chosen)
        return VerifyResult(tuple(comparison.run() for comparison in comparisons))
    finally:
        primary.close()
        other.close()


def _matches(table: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(table, pattern) for pattern in patterns)


_Key = tuple[Any, ...]


class _Comparison:
    """One table of both sides."""

    def __init__(
        self, primary: Side, replica: Side, shape: TableShape, settings: TableSettings, on_progress: OnProgress | None
    ) -> None:
        self._shape = shape
        self._primary = SideTable(primary, shape, replica=False, settings=settings)
        self._replica = SideTable(replica, shape, replica=True, settings=settings)
        self._forms: dict[str, Canonical] = {c.name: canonical_form(c.type) for c in shape.columns}
        self._on_progress = on_progress
        self._rows = 0
        self._found: dict[_Key, Difference] = {}

    def run(self) -> TableResult:
        stopped = not (self._look_for_primary_rows() and self._look_for_extra_rows())
        for pause in _LOOK_AGAIN_S:
            if not self._found or stopped:
                break
            time.sleep(pause)
            self._look_again()
        found = list(self._found.values())
        missing, extra, different = (sum(d.kind == kind for d in found) for kind in ("missing", "extra", "different"))
        return TableResult(self._shape.full_name, self._rows, missing, extra, different, tuple(found[:_NAMED]), stopped)

    def _look_for_primary_rows(self) -> bool:
        for chunk in self._primary.rows():
            keys = [orjson.loads(key) for key, _ in chunk]
            there = self._by_key(self._replica.find(keys))
            for key, (_, image) in zip(keys, chunk, strict=True):
                self._compare(key, image, there.get(self._canonical_key(key)))
            self._rows += len(chunk)
            if not self._go_on():
                return False
        return True

    def _look_for_extra_rows(self) -> bool:
        for chunk in self._replica.row_keys():
            keys = [orjson.loads(key) for key, _ in chunk]
            there = self._by_key(self._primary.find(keys, only_keys=True))
            for key in keys:
                canonical = self._canonical_key(key)
                if canonical not in there:
                    self._found.setdefault(canonical, Difference("extra", key))
            if not self._go_on():
                return False
        return True

    def _look_again(self) -> None:
        keys = [difference.key for difference in self._found.values()]
        self._found.clear()
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
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
            if ours[name] != theirs[name] and _formed(form, ours[name]) != _formed(form, theirs[name])
        )
        if columns:
            self._found[self._canonical_key(key)] = Difference("different", key, columns)

    def _by_key(self, pairs: Iterable[tuple[str, str]]) -> dict[_Key, str]:
        return {self._canonical_key(orjson.loads(key)): image for key, image in pairs}

    def _canonical_key(self, key: dict[str, Any]) -> _Key:
        return tuple(_formed(self._forms[name], key[name]) for name in self._shape.primary_key)

    def _go_on(self) -> bool:
        if self._on_progress is not None:
            self._on_progress(VerifyProgress(self._shape.full_name, self._rows, len(self._found)))
        return len(self._found) < _MOST_DIFFERENCES


def _formed(form: Canonical, value: Any) -> Any:
    return None if value is None else form(value)
