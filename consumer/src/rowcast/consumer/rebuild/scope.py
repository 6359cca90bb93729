"""The tables that a rebuild replaces: all tables of a replica, or chosen tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape

from rowcast.consumer.events.row_layout import RowLayouts, matches_any
from rowcast.consumer.rebuild.topics import read_topics
from rowcast.consumer.replica.dialects.naming import fresh_source, part_source
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.suggestions import did_you_mean
from rowcast.shared.tables.shape import TableShape


@dataclass(frozen=True, slots=True)
class RebuildScope:
    """The tables of a rebuild.

    ``settings``: the settings, in which the replica has only these tables. ``fresh_source``: the value of ``source`` in
    the worker's tables for the fresh tables. ``chosen``: ``schema.table`` of the chosen tables, or None for all tables.
    """

    settings: Settings
    fresh_source: str
    chosen: frozenset[str] | None = None

    @property
    def is_part(self) -> bool:
        """Return whether other tables of the replica stay."""
        return self.chosen is not None

    def of(self, shapes: Mapping[str, TableShape]) -> dict[str, TableShape]:
        """Return the shapes of the tables that are rebuilt."""
        return {name: shape for name, shape in shapes.items() if self.chosen is None or name in self.chosen}

    def rest(self, shapes: Mapping[str, TableShape]) -> dict[str, TableShape]:
        """Return the shapes of the tables that stay."""
        return {name: shape for name, shape in shapes.items() if self.chosen is not None and name not in self.chosen}


def scope_of(settings: Settings, replica: str, patterns: Sequence[str]) -> RebuildScope:
    """Return the scope of a rebuild. ``patterns``: see ``chosen_names``, and empty for all tables."""
    if not patterns:
        return RebuildScope(settings, fresh_source(settings.source))
    chosen = chosen_names(settings, replica, patterns)
    return RebuildScope(with_tables(settings, replica, chosen), part_source(settings.source), frozenset(chosen))


def chosen_names(settings: Settings, replica: str, patterns: Sequence[str]) -> list[str]:
    """Return ``schema.table`` of the replica's tables that match a pattern.

    ``patterns``: shell patterns of ``schema.table``, or of the table alone. Raise ConfigurationError if a pattern
    matches no table.
    """
    layouts = RowLayouts(settings.replica(replica).tables)
    read_topics(settings, layouts)
    names = {shape.full_name: shape.name for shape in layouts.table_shapes()}
    found: set[str] = set()
    for pattern in patterns:
        matching = {full for full, name in names.items() if matches_any(full if "." in pattern else name, [pattern])}
        if not matching:
            known = ", ".join(sorted(names)) or "none yet"
            meant = did_you_mean(pattern, [*names, *names.values()])
            raise ConfigurationError(f"replica {replica!r} has no table {pattern!r} (its tables: {known}).{meant}")
        found |= matching
    return sorted(found)


def with_tables(settings: Settings, replica: str, names: Sequence[str]) -> Settings:
    """Return settings in which the replica has only these tables, given as ``schema.table``."""
    options = settings.replica(replica).model_copy(update={"tables": tuple(map(escape, names))})
    return settings.model_copy(update={"replicas": {**settings.replicas, replica: options}})
