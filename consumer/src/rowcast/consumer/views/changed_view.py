"""Notice a changed view of a filled table, because the rows came through the earlier view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rowcast.consumer.events.rebuild_hint import REBUILD
from rowcast.consumer.views.syntax import ConditionError, parse_condition
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import TableShape, ViewShape


def require_same_view(before: TableShape, shape: TableShape) -> None:
    """Raise DataError if the present view would change the rows of a replica's table. ``before``: the recorded shape.

    A column added or dropped at the source changes no view.
    """
    if change := _change(before, shape):
        raise DataError(
            f"the view of table {shape.full_name} has changed: {change}. The replica has the rows of the earlier view. "
            f"{REBUILD}, or take the change back"
        )


def changed_views(before: Mapping[str, TableShape], after: Mapping[str, TableShape]) -> Iterator[str]:
    """Yield a reason against the rebuild of chosen tables alone, for each chosen table with a changed view."""
    for name in sorted(before.keys() & after.keys()):
        if change := _change(before[name], after[name]):
            yield (
                f"the view of table {name} has changed: {change}. The other tables cannot go on under it meanwhile, so "
                "rebuild all tables"
            )


def _change(before: TableShape, shape: TableShape) -> str:
    one, other = before.view or ViewShape(), shape.view or ViewShape()
    if (one.schema, one.name) != (other.schema, other.name):
        return "the table has another place"
    if one.where != other.where and not _mean_the_same(one.where, other.where):
        return "where is another condition"
    taken_before = _columns(before)
    for name, (taken_as, mask) in _columns(shape).items():
        if name not in taken_before or taken_before[name] == (taken_as, mask):
            continue
        if taken_as is None or taken_before[name][0] is None:
            return f"column {name} is {'left out' if taken_as is None else 'taken'} now"
        return f"column {name} has another {'name' if taken_before[name][0] != taken_as else 'mask'}"
    return ""


def _columns(shape: TableShape) -> dict[str, tuple[str | None, str | None]]:
    """Return name in the replica and mask by the name at the source."""
    if shape.view is None:
        return {column.name: (column.name, None) for column in shape.columns}
    return {column.name: (column.taken_as, column.mask) for column in shape.view.columns}


def _mean_the_same(one: str | None, other: str | None) -> bool:
    """Return whether two conditions differ in white space and spelling alone."""
    if one is None or other is None:
        return False
    try:
        return parse_condition(one) == parse_condition(other)
    except ConditionError:
        return False
