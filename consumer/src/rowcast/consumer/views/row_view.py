"""Turn the rows of one layout of the source into rows of the replica."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import message_target
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.views.conditions import ConditionColumn, Row, Test, compile_condition
from rowcast.consumer.views.table_view import TableView, masked_column
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import ColumnShape, TableShape


class _WrittenColumn(NamedTuple):
    """A column of the image, its name in the replica, and its mask."""

    source: str
    name: str
    mask: Callable[[Any], Any] | None


class RowView:
    """Turn rows of one layout into rows of the replica.

    ``newest``: the newest shape of the table, to which the view is fitted. ``viewed``: the shape of the replica's
    table. A column missing in the newest shape is left out, because its mask is unknown.
    """

    def __init__(self, layout: RowLayout, view: TableView, newest: TableShape, viewed: TableShape) -> None:
        self._written = list(_written(layout, view, newest))
        self._keeps_image = len(self._written) == len(layout.columns) and all(
            column.mask is None and column.source == column.name for column in self._written
        )
        # Two loops, because most columns have no mask.
        self._names = [(column.source, column.name) for column in self._written]
        self._masks = [(column.name, column.mask) for column in self._written if column.mask is not None]
        names = tuple(column.name for column in self._written)
        shape = viewed if layout.shape is newest else _older_shape(layout, view, newest, self._written)
        self.layout = RowLayout(shape, names, keeps_others=layout.keeps_others)
        self._test = _test(layout, view, newest)

    @property
    def changes_nothing(self) -> bool:
        """Return whether each row of the replica is the row of the source."""
        return self._keeps_image and self._test is None

    def change(self, change: Change) -> Change:
        """Return the change of the replica. A row that the condition does not take becomes a delete.

        The row may have been in the replica before, and a delete of a missing row does nothing. Raise DataError, with
        the place of the event, for a value that the condition cannot compare.
        """
        if change.after is None:
            return change.with_row(self.layout, None, creates=False)
        try:
            row = self.row(orjson.loads(change.after))
        except DataError as error:
            located = DataError(f"{change.where()}: the view: {error}")
            located.skip = message_target(change.partition, change.offset)
            raise located from error
        if row is None:
            return change.with_row(self.layout, None, creates=False)
        image = change.after if self._keeps_image else orjson.dumps(row)
        return change.with_row(self.layout, image, creates=change.creates)

    def row(self, row: Row) -> Row | None:
        """Return the row of the replica, or None if the condition does not take the row. Raise DataError."""
        if self._test is not None and self._test(row) is not True:
            return None
        if self._keeps_image:
            return row
        viewed = {name: row[source] for source, name in self._names}
        for name, mask in self._masks:
            viewed[name] = mask(viewed[name])
        return viewed


def _written(layout: RowLayout, view: TableView, newest: TableShape) -> list[_WrittenColumn]:
    present = _present_names(layout, newest)
    return [
        _WrittenColumn(source, view.taken[name], view.masks[name].apply if name in view.masks else None)
        for source in layout.columns
        if (name := present.get(source, source)) in view.taken
    ]


def _present_names(layout: RowLayout, newest: TableShape) -> dict[str, str]:
    """Return the present names of the columns renamed since the layout's shape."""
    return {} if layout.shape is newest else newest.new_names(layout.names)


def _older_shape(layout: RowLayout, view: TableView, newest: TableShape, written: list[_WrittenColumn]) -> TableShape:
    """Return the replica's shape for events of an older shape, with the older types."""
    present = _present_names(layout, newest)

    def column(one: _WrittenColumn) -> ColumnShape:
        older = layout.shape.column(one.source)
        return replace(masked_column(view, present.get(one.source, one.source), older), name=one.name, was=())

    return layout.shape.with_columns(column(one) for one in written)


def _test(layout: RowLayout, view: TableView, newest: TableShape) -> Test | None:
    if view.condition is None:
        return None
    former = {new: old for old, new in _present_names(layout, newest).items()}
    columns = {}
    for configured, name in view.names.items():
        source, column = former.get(name, name), newest.column(name)
        # The present type, because the condition was checked against the present type.
        type_name = column.type.name
        if source in layout.names:
            columns[configured] = ConditionColumn(source, type_name)
        else:
            columns[configured] = ConditionColumn(None, type_name, _default_of(column))
    return compile_condition(view.condition, columns)


def _default_of(column: ColumnShape) -> Any:
    """Return the source's value of a new column in existing rows, if a constant."""
    default = column.default
    if default is None or default.kind not in ("number", "string", "boolean"):
        return None
    if default.kind == "boolean":
        return default.value == "true"
    return default.value
