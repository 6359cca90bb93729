"""Merge several MetaData into a single source of tables."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from rowcast.shared.errors import ConfigurationError


def merge_metadata(metadata: sa.MetaData | Iterable[sa.MetaData]) -> sa.MetaData:
    """Return a MetaData with copies of all tables, or the only MetaData itself.

    Tables defined later are copied at their definition. Raises ConfigurationError if two
    MetaData describe a table differently, if there is no MetaData, or if an object is no MetaData.
    """
    given = [metadata] if isinstance(metadata, sa.MetaData) or not isinstance(metadata, Iterable) else metadata
    sources = list(dict.fromkeys(given))
    if not sources:
        raise ConfigurationError("the capture has no MetaData. Give it at least one.")
    for source in sources:
        if not isinstance(source, sa.MetaData):
            raise ConfigurationError(
                f"the capture needs MetaData, and {source!r} is none. Give the MetaData of a declarative base as "
                "Base.metadata."
            )
    if len(sources) == 1:
        return sources[0]
    merged = sa.MetaData()
    for source in sources:
        for table in list(source.tables.values()):
            _copy(table, merged)
    _follow(sources, merged)
    return merged


def _follow(sources: list[sa.MetaData], merged: sa.MetaData) -> None:
    """Copy the tables that the application defines from now on."""
    # SQLAlchemy keeps the listener for ever, so the listener must not keep the metadata.
    followed = weakref.WeakSet(sources)
    weak_merged = weakref.ref(merged)

    def copy_new(table: sa.Table, parent: Any) -> None:
        target = weak_merged()
        if target is not None and parent in followed:
            _copy(table, target)

    event.listen(sa.Table, "after_parent_attach", copy_new)


def _copy(table: sa.Table, merged: sa.MetaData) -> None:
    known = merged.tables.get(table.key)
    if known is None:
        table.to_metadata(merged)
    elif (ours := _described(table)) != (theirs := _described(known)):
        raise ConfigurationError(
            f"two of the MetaData describe the table {table.fullname!r} differently, one with the columns "
            f"{', '.join(theirs)}, the other with {', '.join(ours)}. One source holds a table once, so leave one of "
            "the MetaData out, or give the capture of the other database a source of its own."
        )


def _described(table: sa.Table) -> list[str]:
    return [f"{column.name}{' (key)' if column.primary_key else ''}" for column in table.columns]
