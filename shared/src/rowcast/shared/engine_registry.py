"""Find the class for a database engine: one that a distribution registers by entry point, or a built-in one."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any


def class_for_engine(group: str, engine: str, built_in: Mapping[str, str]) -> type[Any] | None:
    """Return the class that is registered for SQLAlchemy's name of an engine, or None if there is no class.

    ``group``: the entry point group. ``built_in``: rowcast's own classes, from the engine's name to ``module:class``.
    They are also in the group. The mapping serves programs that have no metadata of distributions, because a tool
    such as PyInstaller or zipapp left it out.
    """
    found: type[Any]
    for entry in entry_points(group=group, name=engine):
        found = entry.load()
        return found
    if engine in built_in:
        found = pkgutil.resolve_name(built_in[engine])
        return found
    return None


def engines_in(group: str, built_in: Mapping[str, str]) -> list[str]:
    """Return the names of the engines for which a class can be found, sorted."""
    return sorted({*entry_points(group=group).names, *built_in})
