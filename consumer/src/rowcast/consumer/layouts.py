"""Which columns an event's row has, and what they are: its layout, found by the shape that the event names."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from rowcast.shared.errors import DataError
from rowcast.shared.shapes import TableShape

_log = logging.getLogger("rowcast.worker")


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A table's shape and those of its columns that an event carries, in the shape's order."""

    shape: TableShape
    columns: tuple[str, ...]
    table: str = field(init=False)
    """``schema.table``."""
    key: tuple[str, ...] = field(init=False)
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        # Computed once: they are asked for with every event.
        object.__setattr__(self, "table", self.shape.full_name)
        object.__setattr__(self, "key", self.shape.primary_key)
        object.__setattr__(self, "names", frozenset(self.columns))


class Layouts:
    """All that the schema topic has said so far, for the tables that the replica wants."""

    def __init__(self, patterns: Iterable[str] = ("*",)) -> None:
        self._patterns = tuple(patterns)
        self._latest: dict[str, TableShape] = {}
        self._latest_at: dict[str, int] = {}
        self._by_version: dict[tuple[str, str | None], Layout] = {}
        self.known: dict[tuple[str, str, str | None], Layout] = {}
        """The layouts by the schema, table and shape that an event names."""
        self._inferred: dict[tuple[TableShape, frozenset[str]], Layout] = {}
        self._wanted: dict[str, bool] = {}

    def wants(self, table: str) -> bool:
        """Whether one of the replica's ``tables`` patterns matches ``schema.table``."""
        known = self._wanted.get(table)
        if known is None:
            known = self._wanted[table] = any(fnmatchcase(table, pattern) for pattern in self._patterns)
        return known

    def add(self, version: str, shape: TableShape, offset: int = 0) -> bool:
        """Takes a shape in; later ones of a table replace earlier ones, also one that comes again, as it does when a
        migration was rolled back. ``offset``: where on the schema topic, of which a part may be read twice. True if it
        was news of a wanted table."""
        name = shape.full_name
        known = self._by_version.get((name, version))
        if not self.wants(name) or (known is not None and offset <= self._latest_at[name]):
            return False
        is_news = known is None or self._latest[name] != shape
        self._latest[name], self._latest_at[name] = shape, offset
        if known is None:
            layout = Layout(shape, tuple(c.name for c in shape.columns))
            self._by_version[name, version] = layout
            self.known[shape.schema, shape.name, version] = layout
        return is_news

    def shapes(self) -> list[TableShape]:
        """The latest shape of every wanted table."""
        return list(self._latest.values())

    def find(self, table: str, version: str | None) -> Layout | None:
        """The layout of an event that names this shape; None if no such shape has been read yet."""
        return self._by_version.get((table, version))

    def infer(self, table: str, version: str | None, columns: Iterable[str]) -> Layout:
        """The layout of an event whose shape is gone: compaction keeps only a table's latest one.

        Columns that the latest shape has no more are left out. Raises DataError if the event names no shape and has
        such columns, or if the key is not among the others.
        """
        shape = self._latest.get(table)
        if shape is None:
            raise DataError(f"the schema topic has no shape of table {table}; is the topic complete?")
        names = frozenset(columns)
        gone = ", ".join(sorted(names - {c.name for c in shape.columns}))
        lacks = ""
        if not names.issuperset(shape.primary_key):
            lacks = "needs its primary key in the row"
        elif gone and version is None:
            lacks = f"has no column {gone}"
        if lacks:
            raise DataError(
                f"shape {version!r} of table {table} is not in the schema topic, and the latest shape there {lacks}"
            )
        layout = self._inferred.get((shape, names))
        if layout is None:
            if gone:
                _log.warning(
                    "table %s: its older events' column %s is left out: it has no such column now", table, gone
                )
            layout = Layout(shape, tuple(c.name for c in shape.columns if c.name in names))
            self._inferred[shape, names] = layout
        return layout
