"""A column of the replica, with its full definition."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExistingColumn:
    """A column of the replica. ``type``: the engine's own text, in lower case.

    ``default``: the SQL of the default, or "" without one. ``is_numbered``: a counter fills the column of a new row.
    ``attributes``: DDL between the type and NOT NULL in a new definition of the column. ``collation``: the collation of
    a text, on MariaDB and MySQL.
    """

    type: str
    nullable: bool
    default: str = ""
    is_numbered: bool = False
    attributes: str = ""
    is_generated: bool = False
    collation: str | None = None
