"""Separate the application's tables from the tables of rowcast and of other tools."""

from __future__ import annotations

ROWCAST_PREFIX = "rowcast_"
"""The names of all tables of rowcast begin with it."""

_TOOL_TABLES = frozenset(("alembic_version", "sqlite_sequence"))
_COPY_PREFIX = "_alembic_tmp_"


def is_rowcast_table(name: str) -> bool:
    """Return whether a table of this name belongs to rowcast. ``name`` is without a schema."""
    return name.startswith(ROWCAST_PREFIX)


def is_alembic_copy(name: str) -> bool:
    """Return whether a table of this name is a temporary copy of Alembic's batch mode."""
    return name.startswith(_COPY_PREFIX)


def is_application_table(name: str) -> bool:
    """Return whether a table of this name belongs to the application.

    Tables of rowcast, Alembic and SQLite do not.
    """
    return not (is_rowcast_table(name) or is_alembic_copy(name) or name in _TOOL_TABLES)
