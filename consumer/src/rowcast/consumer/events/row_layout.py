"""The layout of an event's row: columns and types, found by the shape named in the event."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache

from rowcast.consumer.events.row_decoders import RowDecoders
from rowcast.consumer.events.source_notes import SourceNotes
from rowcast.consumer.events.value_types import KnownForms, fitting_types
from rowcast.shared.errors import DataError
from rowcast.shared.tables.json_types import is_loosely_typed
from rowcast.shared.tables.renamed_tables import renamed_tables
from rowcast.shared.tables.shape import TableShape

_log = logging.getLogger("rowcast.worker")


@dataclass(frozen=True, slots=True, eq=False)
class RowLayout:
    """A table's shape, and the columns of the shape that an event carries, in the order of the shape.

    ``keeps_others``: the replica keeps its values of the columns that the event leaves out, so the row must exist.
    """

    shape: TableShape
    columns: tuple[str, ...]
    keeps_others: bool = False
    table: str = field(init=False)
    """``schema.table``."""
    key: tuple[str, ...] = field(init=False)
    names: frozenset[str] = field(init=False)
    forms: KnownForms = field(init=False)
    """The forms of rows and keys that are known to fit the columns."""
    decoders: RowDecoders = field(init=False)

    def __post_init__(self) -> None:
        # Computed once, because every event needs them.
        object.__setattr__(self, "table", self.shape.full_name)
        object.__setattr__(self, "key", self.shape.primary_key)
        object.__setattr__(self, "names", frozenset(self.columns))
        object.__setattr__(self, "forms", KnownForms())
        types = fitting_types(self.shape)
        nulls = frozenset() if is_loosely_typed(self.shape.engine) else frozenset((type(None),))
        key_types = {name: types[name] - nulls for name in self.key}
        object.__setattr__(self, "decoders", RowDecoders({name: types[name] for name in self.columns}, key_types))


@lru_cache(1_000)
def layout_of_columns(shape: TableShape, names: frozenset[str]) -> RowLayout:
    """Return the layout of a row with some columns of a shape. The replica keeps its values of the others."""
    columns = tuple(column.name for column in shape.columns if column.name in names)
    return RowLayout(shape, columns, keeps_others=len(columns) < len(shape.columns))


class RowLayouts:
    """The shapes read from the schema topic so far, for the tables that the replica includes."""

    def __init__(self, patterns: Iterable[str] = ("*",)) -> None:
        self._patterns = tuple(patterns)
        self.notes = SourceNotes()
        """What the schema topic says about the source besides shapes."""
        self.renamed: Mapping[str, str] = {}
        """The present name of each table that was renamed, by the former name. Their topics still have events."""
        self._latest: dict[str, TableShape] = {}
        self._latest_at: dict[str, int] = {}
        self._by_version: dict[tuple[str, str | None], RowLayout] = {}
        self.by_event_shape: dict[tuple[str, str, str | None], RowLayout] = {}
        """The layouts by the schema, table and shape that an event names."""
        self._inferred: dict[tuple[TableShape, frozenset[str]], RowLayout] = {}
        self._wanted: dict[str, bool] = {}

    def is_wanted(self, table: str) -> bool:
        """Return whether a pattern of the replica's ``tables`` setting matches ``schema.table``."""
        wanted = self._wanted.get(table)
        if wanted is None:
            wanted = self._wanted[table] = matches_any(table, self._patterns)
        return wanted

    def add(self, version: str, shape: TableShape, offset: int = 0) -> bool:
        """Add a shape. Return True if the table is wanted and the latest shape is new or has changed.

        A later shape of a table replaces all earlier shapes. A known shape can become the latest again, because rolling
        back a migration publishes the old shape once more. ``offset``: the offset of the shape in the schema topic,
        because a part of the topic may be read twice.
        """
        name = shape.full_name
        known = self._by_version.get((name, version))
        if not self.is_wanted(name) or (known is not None and offset <= self._latest_at[name]):
            return False
        is_news = known is None or self._latest[name] != shape
        self._latest[name], self._latest_at[name] = shape, offset
        if is_news or shape.was:
            self.renamed = renamed_tables(sorted(self._latest.values(), key=self._published_at))
        if known is None:
            layout = RowLayout(shape, tuple(c.name for c in shape.columns))
            self._by_version[name, version] = layout
            self.by_event_shape[shape.schema, shape.name, version] = layout
        return is_news

    def _published_at(self, shape: TableShape) -> int:
        return self._latest_at[shape.full_name]

    def latest_shapes(self) -> list[TableShape]:
        """Return the latest shape of every wanted table in the source's present timeline, under every name it had.

        Each name has a topic.
        """
        return [shape for name, shape in self._latest.items() if self.notes.is_present(name)]

    def table_shapes(self) -> list[TableShape]:
        """Return the latest shape of every wanted table, under its present name alone."""
        return [shape for shape in self.latest_shapes() if shape.full_name not in self.renamed]

    def tables_lacking_rows(self) -> list[str]:
        """Return the tables whose initial snapshot Kafka does not have completely yet."""
        return [table for table in self.notes.tables_lacking_rows() if table not in self.renamed]

    def latest(self, table: str) -> TableShape | None:
        """Return the latest shape of a table, or None if no shape has been read."""
        return self._latest.get(table)

    def find(self, table: str, version: str | None) -> RowLayout | None:
        """Return the layout of events with this shape, or None if the shape has not been read yet."""
        return self._by_version.get((table, version))

    def is_known(self, table: str) -> bool:
        """Return whether the table has a shape, or is not wanted."""
        return table in self._latest or not self.is_wanted(table)

    def no_shape(self, table: str) -> str:
        """Return the words for a wanted table without a shape."""
        return (
            f"the schema topic has no shape of table {table}, so records of the topic were deleted. Restart the relay, "
            "which publishes the latest shapes again"
        )

    def infer(self, table: str, version: str | None, columns: Iterable[str]) -> RowLayout:
        """Return a layout for an event of a lost shape. Compaction keeps only a table's latest shape.

        The layout leaves out columns that the latest shape lacks. Raise DataError if the event names no shape and has
        such columns, or if the event lacks a column of the primary key.
        """
        shape = self._latest.get(table)
        if shape is None:
            raise DataError(self.no_shape(table))
        names = frozenset(columns)
        shape = _with_former_names(shape, names)
        dropped = ", ".join(sorted(names - {c.name for c in shape.columns}))
        fault = ""
        if not names.issuperset(shape.primary_key):
            fault = "needs its primary key in the row"
        elif dropped and version is None:
            fault = f"has no column {dropped}"
        if fault:
            raise DataError(
                f"shape {version!r} of table {table} is not in the schema topic, and the latest shape there {fault}"
            )
        layout = self._inferred.get((shape, names))
        if layout is None:
            if dropped:
                _log.warning(
                    "table %s: column %s of older events is left out, because the table has no such column now",
                    table,
                    dropped,
                )
            layout = RowLayout(shape, tuple(c.name for c in shape.columns if c.name in names))
            self._inferred[shape, names] = layout
        return layout


def _with_former_names(shape: TableShape, names: frozenset[str]) -> TableShape:
    """Return the shape with the former names of its columns, as in a row with the columns ``names``."""
    former = {new: old for old, new in shape.new_names(names).items()}
    if not former:
        return shape
    return shape.with_columns(replace(column, name=former.get(column.name, column.name)) for column in shape.columns)


def matches_any(table: str, patterns: Iterable[str]) -> bool:
    """Return whether ``schema.table`` matches a shell pattern."""
    return any(fnmatchcase(table, pattern) for pattern in patterns)
