"""Reduce the changes of each row to the last change, because only the last affects the resulting state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress, groupby, repeat
from operator import is_not, not_

import orjson

from rowcast.consumer.events.change import TRUNCATE_KEY, Change, creates_of, image_of, key_of, layout_of, lsn_of
from rowcast.consumer.events.row_layout import RowLayout, layout_of_columns


@dataclass(slots=True)
class TableChanges:
    """The folded changes of a table, by the layout of the events.

    ``is_emptied``: delete all rows first. ``upserts``: the images to write. ``create``: for each image, whether the
    event says that the row is new. ``deletes``: the keys to delete.
    """

    table: str
    is_emptied: bool = False
    upserts: dict[RowLayout, list[bytes]] = field(default_factory=dict)
    create: dict[RowLayout, list[bool]] = field(default_factory=dict)
    deletes: dict[RowLayout, list[bytes]] = field(default_factory=dict)


def fold(changes: Iterable[Change]) -> dict[str, dict[bytes, Change]]:
    """Return the last change of every key, by table.

    The changes of a key must come in order. Keys stay in the order of the first change, because a row must come before
    referring rows of its table. A truncate stays, without any earlier change of the table.
    """
    last: dict[str, dict[bytes, Change]] = {}
    runs = []
    for layout, group in groupby(changes, layout_of):
        run = list(group)
        runs.append(run)
        if layout.keeps_others:
            run = _completed(last.get(layout.table, {}), run)
        # An update keeps the place of a key in the order.
        last.setdefault(layout.table, {}).update(zip(map(key_of, run), run, strict=True))
    if any(TRUNCATE_KEY in rows for rows in last.values()):
        return _fold_with_truncates(chain.from_iterable(runs))
    return last


def _fold_with_truncates(changes: Iterable[Change]) -> dict[str, dict[bytes, Change]]:
    """Fold as ``fold``. A truncate has its place among the changes of all keys in all partitions."""
    last: dict[str, dict[bytes, Change]] = {}
    for change in sorted(changes, key=lsn_of):
        rows = last.setdefault(change.layout.table, {})
        if change.is_truncate:
            rows.clear()
        rows[change.key] = _completed(rows, [change])[0] if change.layout.keeps_others else change
    return last


def _completed(before: Mapping[bytes, Change], run: Iterable[Change]) -> list[Change]:
    """Complete changes without some columns by the columns of earlier changes of the key.

    ``before``: the last changes before the run.
    """
    newest: dict[bytes, Change] = {}
    completed = []
    for change in run:
        earlier = newest.get(change.key) or before.get(change.key)
        if earlier is not None and earlier.after is not None and change.after is not None:
            change = _merged(earlier, earlier.after, change.after, change)
        newest[change.key] = change
        completed.append(change)
    return completed


def _merged(earlier: Change, before: bytes, after: bytes, change: Change) -> Change:
    image = orjson.loads(before) | orjson.loads(after)
    layout = earlier.layout
    if not layout.names >= change.layout.names:
        # A column was added in between, or another column is left out.
        layout = layout_of_columns(change.layout.shape, frozenset(image))
    image = {name: image[name] for name in layout.columns}
    return change._replace(layout=layout, after=orjson.dumps(image), creates=earlier.creates)


def group_by_table(folded: dict[str, dict[bytes, Change]], order: Sequence[str]) -> list[TableChanges]:
    """Return the folded changes, grouped for set-wise statements, with the tables in the given order."""
    groups = []
    for table in order:
        rows = folded.get(table)
        if not rows:
            continue
        group = TableChanges(table, is_emptied=rows.pop(TRUNCATE_KEY, None) is not None)
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
