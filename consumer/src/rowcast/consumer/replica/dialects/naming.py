"""The names of the source's tables in the replica, and of the fresh tables of a rebuild."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

# The shortest limit of all engines is PostgreSQL's 63 bytes.
_MAX_NAME_BYTES = 63
_MAX_SOURCE = 100

_CONSTRAINT = re.compile(r"(rowcast_(?:uq|ix|fk)_[0-9a-f]{16})_[0-9a-f]{6}")


@dataclass(frozen=True, slots=True)
class TableNaming:
    """Turn names of the replica's tables into names of fresh or old tables.

    ``prefix``: the beginning of each table's name. ``suffix``: the end of the name of each constraint and index. The
    tables of the replica have some of the names already.
    """

    prefix: str = ""
    suffix: str = ""

    def table(self, name: str) -> str:
        """Return the name for the replica's table ``name``. A long name is replaced by its hash."""
        if not self.prefix:
            return name
        named = f"{self.prefix}{name}"
        if len(named.encode()) <= _MAX_NAME_BYTES:
            return named
        return f"{self.prefix}{hashlib.sha256(name.encode()).hexdigest()[:16]}"


LIVE = TableNaming()
"""The names that readers use."""
OLD = TableNaming("rowcast_old_")
"""The names of the tables that a rebuild has replaced."""
FRESH_PREFIX = "rowcast_new_"


def fresh_naming() -> TableNaming:
    """Return the names of the tables that a rebuild fills."""
    return TableNaming(FRESH_PREFIX, f"_{secrets.token_hex(3)}")


def constraint_base(name: str | None) -> str | None:
    """Return the name of a worker's constraint without the suffix that a rebuild has added."""
    match = _CONSTRAINT.fullmatch(name or "")
    return match[1] if match else name


def fresh_source(source: str) -> str:
    """Return the value of ``source`` in the worker's tables for the fresh tables. No source has such a name."""
    return _marked(source, "+rebuild")


def part_source(source: str) -> str:
    """Return the value of ``source`` in the worker's tables for the fresh tables of a rebuild of chosen tables."""
    return _marked(source, "+tables")


def share_source(source: str, number: int) -> str:
    """Return the value of ``source`` in the worker's tables for a process of a divided load."""
    return _marked(source, f"+{number}")


def old_source(source: str) -> str:
    """Return the value of ``source`` in ``rowcast_table`` for the tables that a rebuild has replaced."""
    return _marked(source, "+old")


def kept_source(source: str) -> str:
    """Return the value of ``source`` in ``rowcast_table`` for the replaced tables that the user wants to keep."""
    return _marked(source, "+kept")


def _marked(source: str, mark: str) -> str:
    if len(source) + len(mark) <= _MAX_SOURCE:
        return f"{source}{mark}"
    return f"{hashlib.sha256(source.encode()).hexdigest()[:16]}{mark}"
