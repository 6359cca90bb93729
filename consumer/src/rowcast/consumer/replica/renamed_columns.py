"""Read rows of older shapes by the column names of the newest shape.

Keys are never translated, because a renamed column of the primary key is a different key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import orjson

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.shared.tables.shape import TableShape


class RenamedColumns:
    """Translate the layouts and images of older shapes to the newest shapes."""

    def __init__(self) -> None:
        self._newest: dict[str, TableShape] = {}
        self._known: dict[RowLayout, tuple[RowLayout, Mapping[str, str]]] = {}

    def add(self, shapes: Sequence[TableShape]) -> None:
        """Take the newest shapes of these tables."""
        self._newest |= {shape.full_name: shape for shape in shapes}
        self._known.clear()

    def layout(self, layout: RowLayout) -> RowLayout:
        """Return the layout with the newest names of its columns."""
        return self._translation(layout)[0]

    def images(self, layout: RowLayout, images: Sequence[bytes]) -> Sequence[bytes]:
        """Return images of this layout with the newest names of the columns."""
        names = self._translation(layout)[1]
        return [_renamed(image, names) for image in images] if names else images

    def _translation(self, layout: RowLayout) -> tuple[RowLayout, Mapping[str, str]]:
        found = self._known.get(layout)
        if found is None:
            shape = self._newest.get(layout.table)
            names = {} if shape is None or layout.shape is shape else shape.new_names(layout.names)
            found = self._known[layout] = (_translated(layout, names) if names else layout), names
        return found


def _translated(layout: RowLayout, names: Mapping[str, str]) -> RowLayout:
    columns = [replace(column, name=names.get(column.name, column.name)) for column in layout.shape.columns]
    return RowLayout(layout.shape.with_columns(columns), tuple(names.get(name, name) for name in layout.columns))


def _renamed(image: bytes, names: Mapping[str, str]) -> bytes:
    return orjson.dumps({names.get(name, name): value for name, value in orjson.loads(image).items()})
