"""A column of the replica, with everything that its definition says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExistingColumn:
    """A column of the replica. ``type``: the engine's own text, in lower case.

    ``default``: the SQL of the default, or "" without one. ``is_numbered``: a counter fills the column of a new row.
    ``attributes``: DDL that belongs between the type and NOT NULL when the column is defined again.
    ``collation``: that of a text, on MariaDB and MySQL.
    """

    type: str
    nullable: bool
    default: str = ""
    is_numbered: bool = False
    attributes: str = ""
    is_generated: bool = False
    collation: str | None = None
