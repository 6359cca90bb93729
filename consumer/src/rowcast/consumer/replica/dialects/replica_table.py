"""The replica's tables and columns, as the engine describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rowcast.consumer.events.row_layout import RowLayout

TableName = tuple[str | None, str]
"""Schema and name of a table of the replica. The schema is None for the default schema."""


@dataclass(frozen=True, slots=True)
class ReplicaColumn:
    """A column of the replica.

    ``type`` is the engine's own name of the type, in lower case. ``loose``: the column's collation may take two
    different texts for equal, for example ``a`` and ``A``. ``stored``: the type of the stored values, if different: the
    base type of a domain, and ``enum('a','b')`` for an enum. ``default``: the SQL for the column of a new row, or ""
    without a default. ``attributes``: DDL between the type and NOT NULL in a new definition of the column.
    """

    name: str
    type: str
    nullable: bool
    generated: bool
    loose: bool = False
    stored: str = ""
    default: str = ""
    attributes: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ReplicaTable:
    """A table of the replica.

    ``quoted`` is its name, ready for SQL. ``other_unique``: the table has unique keys besides the primary key.
    """

    schema: str | None
    name: str
    quoted: str
    columns: dict[str, ReplicaColumn]
    key: tuple[str, ...]
    other_unique: bool

    def writable_columns(self, layout: RowLayout) -> list[str]:
        """Return the columns to write of an event's row.

        Generated columns are left out. Columns of an older shape are left out if the replica does not have the column.
        """
        return [name for name in layout.columns if name in self.columns and not self.columns[name].generated]


@dataclass(frozen=True, slots=True)
class Loosening:
    """Constraints and defaults that a table loses, all at once where the engine writes the table again.

    ``columns``: the table's columns before. ``nullable``: the columns that lose NOT NULL. ``defaults``: the new SQL of
    the default by column, or "" to drop the default. ``foreign_keys``: the names of the foreign keys to drop.
    """

    table: TableName
    columns: Mapping[str, ReplicaColumn]
    nullable: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    foreign_keys: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return whether anything is lost."""
        return bool(self.nullable or self.defaults or self.foreign_keys)
