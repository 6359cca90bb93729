"""Which columns an event's row has, and what they are: its layout, found by the shape that the event names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from rowcast.shared.errors import DataError
from rowcast.shared.shapes import TableShape


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

    def add(self, version: str, shape: TableShape) -> bool:
        """Takes a shape in; later ones of a table replace earlier ones. True if it was news of a wanted table."""
        if not self.wants(shape.full_name) or (shape.full_name, version) in self._by_version:
            return False
        self._latest[shape.full_name] = shape
        layout = Layout(shape, tuple(c.name for c in shape.columns))
        self._by_version[shape.full_name, version] = layout
        self.known[shape.schema, shape.name, version] = layout
        return True

    def shapes(self) -> list[TableShape]:
        """The latest shape of every wanted table."""
        return list(self._latest.values())

    def find(self, table: str, version: str | None) -> Layout | None:
        """The layout of an event that names this shape; None if no such shape has been read yet."""
        return self._by_version.get((table, version))

    def infer(self, table: str, version: str | None, columns: Iterable[str]) -> Layout:
        """The layout of an event whose shape is gone: compaction keeps only a table's latest one.

        Its columns must be among the latest shape's, and hold the key. Raises DataError otherwise.
        """
        shape = self._latest.get(table)
        if shape is None:
            raise DataError(f"the schema topic has no shape of table {table}; is the topic complete?")
        names = frozenset(columns)
        unknown = names - {c.name for c in shape.columns}
        if unknown or not names.issuperset(shape.primary_key):
            what = f"has no column {', '.join(sorted(unknown))}" if unknown else "needs its primary key in the row"
            raise DataError(
                f"shape {version!r} of table {table} is not in the schema topic, and the latest shape there {what}"
            )
        layout = self._inferred.get((shape, names))
        if layout is None:
            layout = Layout(shape, tuple(c.name for c in shape.columns if c.name in names))
            self._inferred[shape, names] = layout
        return layout
