"""Reduce the changes of each row to the last change, because only the last affects the resulting state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress, groupby, repeat
from operator import is_not, not_

from rowcast.consumer.events.change import Change, creates_of, image_of, key_of, layout_of
from rowcast.consumer.events.row_layout import RowLayout


@dataclass(slots=True)
class TableChanges:
    """The folded changes of a table, by the layout of the events.

    ``upserts``: the images to write. ``create``: for each image, whether the event says that the row is new.
    ``deletes``: the keys to delete.
    """

    table: str
    upserts: dict[RowLayout, list[bytes]] = field(default_factory=dict)
    create: dict[RowLayout, list[bool]] = field(default_factory=dict)
    deletes: dict[RowLayout, list[bytes]] = field(default_factory=dict)


def fold(changes: Iterable[Change]) -> dict[str, dict[bytes, Change]]:
    """Return the last change of every key, by table.

    The changes of a key must come in order. Keys stay in the order of the first change, because a row must come before
    referring rows of the same table.
    """
    last: dict[str, dict[bytes, Change]] = {}
    for layout, group in groupby(changes, layout_of):
        run = list(group)
        # An update keeps the place of a key in the order.
        last.setdefault(layout.table, {}).update(zip(map(key_of, run), run, strict=True))
    return last


def group_by_table(folded: dict[str, dict[bytes, Change]], order: Sequence[str]) -> list[TableChanges]:
    """Return the folded changes, grouped for set-wise statements, with the tables in the given order."""
    groups = []
    for table in order:
        rows = folded.get(table)
        if not rows:
            continue
        group = TableChanges(table)
        for layout, run in _by_layout(list(rows.values())):
            images, create = list(map(image_of, run)), list(map(creates_of, run))
            if None in images:
                has_row = list(map(is_not, images, repeat(None)))
                group.deletes[layout] = list(compress(map(key_of, run), map(not_, has_row)))
                images, create = list(compress(images, has_row)), list(compress(create, has_row))
            if images:
                group.upserts[layout], group.create[layout] = images, create
        groups.append(group)
    assert len(groups) == len(folded), f"changes of unknown tables: {folded.keys() - set(order)}"
    return groups


def _by_layout(changes: list[Change]) -> Iterable[tuple[RowLayout, list[Change]]]:
    """Return the changes of each layout. Most tables have a single layout at a time."""
    layouts = dict.fromkeys(map(layout_of, changes))
    if len(layouts) == 1:
        return zip(layouts, [changes], strict=True)
    return [(layout, [change for change in changes if change.layout is layout]) for layout in layouts]
