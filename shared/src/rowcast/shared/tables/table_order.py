"""Sort tables, parents first. The foreign keys of a table refer to its parents."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

from rowcast.shared.tables.shape import TableShape


def parents_first(shapes: Iterable[TableShape]) -> list[str]:
    """Return the full names of the tables, parents before children, otherwise in the given order.

    The tables of a cycle come in any order, because no order puts all their parents first. Tables outside of the cycle
    are still sorted.
    """
    parents = {shape.full_name: set(_parents(shape)) for shape in shapes}
    for of_table in parents.values():
        of_table.intersection_update(parents)
    while True:
        try:
            return _sorted_by_layers(parents)
        except CycleError as error:
            # Each table of the reported cycle is a parent of the next table. Without this edge, try again.
            first, second = error.args[1][:2]
            parents[second].discard(first)


def _parents(shape: TableShape) -> Iterable[str]:
    """Return the tables that the table refers to, except itself."""
    for key in shape.foreign_keys:
        if (full_name := f"{key.referred_schema}.{key.referred_table}") != shape.full_name:
            yield full_name


def _sorted_by_layers(parents: dict[str, set[str]]) -> list[str]:
    """Return the tables in layers. All parents of a table are in earlier layers.

    Raises CycleError.
    """
    position = {name: i for i, name in enumerate(parents)}
    sorter = TopologicalSorter({name: sorted(of_table) for name, of_table in parents.items()})
    sorter.prepare()
    order: list[str] = []
    while sorter.is_active():
        layer = sorted(sorter.get_ready(), key=position.__getitem__)
        order += layer
        sorter.done(*layer)
    return order
