"""A table of the replica at present, with the shape of the source's table as the goal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rowcast.consumer.replica.dialects.existing_column import ExistingColumn
from rowcast.shared.tables.shape import ColumnShape, ForeignKeyShape, TableShape


@dataclass(frozen=True, slots=True)
class ExistingIndex:
    """An index of the replica. ``name`` is None for a key with only a constraint."""

    name: str | None
    columns: tuple[str | None, ...]
    unique: bool


@dataclass(frozen=True, slots=True)
class ExistingForeignKey:
    """A foreign key of the replica. ``referred``: the quoted name of the referred table."""

    name: str | None
    columns: tuple[str, ...]
    referred: str
    referred_columns: tuple[str, ...]
    on_delete: str | None
    on_update: str | None


@dataclass(frozen=True, slots=True)
class ExistingTable:
    """A table to promote. ``quoted``: its name, ready for SQL. ``created``: a worker created the table.

    ``possible_keys``: the source's foreign keys that the replica can have, in the worker's form without actions.
    ``has_rows_without``: the columns with NULL in rows, although NOT NULL at the source.
    """

    shape: TableShape
    schema: str | None
    name: str
    quoted: str
    created: bool
    columns: dict[str, ExistingColumn]
    key: tuple[str, ...]
    indexes: tuple[ExistingIndex, ...]
    foreign_keys: tuple[ExistingForeignKey, ...]
    possible_keys: dict[ForeignKeyShape, ExistingForeignKey]
    has_rows_without: frozenset[str] = frozenset()

    def pairs(self) -> Iterator[tuple[ColumnShape, ExistingColumn]]:
        """Yield the source's columns with the replica's."""
        for column in self.shape.columns:
            if column.name in self.columns:
                yield column, self.columns[column.name]

    def missing_keys(self) -> Iterator[tuple[ForeignKeyShape, ExistingForeignKey]]:
        """Yield the source's foreign keys missing in a table of the worker, because a person has dropped the keys."""
        for key, planned in self.possible_keys.items():
            if self.created and self.foreign_key(key.columns) is None:
                yield key, planned

    def foreign_key(self, columns: Sequence[str]) -> ExistingForeignKey | None:
        """Return the replica's foreign key on the columns, or None."""
        return next((key for key in self.foreign_keys if key.columns == tuple(columns)), None)
