"""Reduce the changes of each row to the last change, because only the last affects the resulting state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.row_layout import RowLayout


@dataclass(slots=True)
class TableChanges:
    """The folded changes of one table: images to write and keys to delete, by the layout of their events."""

    table: str
    upserts: dict[RowLayout, list[bytes]] = field(default_factory=dict)
    deletes: dict[RowLayout, list[bytes]] = field(default_factory=dict)


def fold(changes: Iterable[Change]) -> dict[str, dict[bytes, Change]]:
    """Return the last change of every key, by table.

    The changes of a key must come in order. Keys stay in the order of the first change, because a row must come before
    referring rows of the same table.
    """
    last: dict[str, dict[bytes, Change]] = {}
    for change in changes:
        rows = last.get(change.layout.table)
        if rows is None:
            rows = last[change.layout.table] = {}
        rows[change.key] = change
    return last


def group_by_table(folded: dict[str, dict[bytes, Change]], order: Sequence[str]) -> list[TableChanges]:
    """Return the folded changes, grouped for set-wise statements, with the tables in the given order."""
    groups = []
    for table in order:
        rows = folded.get(table)
        if not rows:
            continue
        group = TableChanges(table)
        upserts, deletes = group.upserts, group.deletes
        for key, change in rows.items():
            if change.after is None:
                deletes.setdefault(change.layout, []).append(key)
            elif (images := upserts.get(change.layout)) is not None:
                images.append(change.after)
            else:
                upserts[change.layout] = [change.after]
        groups.append(group)
    assert len(groups) == len(folded), f"changes of unknown tables: {folded.keys() - set(order)}"
    return groups
