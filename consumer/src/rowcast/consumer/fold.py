"""Of several changes to one row only the last one matters to a state of the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from rowcast.consumer.changes import Change
from rowcast.consumer.layouts import Layout
from rowcast.shared.shapes import TableShape


@dataclass(slots=True)
class TableChanges:
    """What is left to do in one table: images and keys, by the layout of the events that they came with."""

    table: str
    upserts: dict[Layout, list[bytes]] = field(default_factory=dict)
    deletes: dict[Layout, list[bytes]] = field(default_factory=dict)


def fold(changes: Iterable[Change]) -> dict[str, dict[bytes, Change]]:
    """The last change of every key, by table. Changes of one key must come in their order.

    Keys stay in the order in which they first appeared: a row that others of its table refer to comes before them.
    """
    last: dict[str, dict[bytes, Change]] = {}
    for change in changes:
        rows = last.get(change.layout.table)
        if rows is None:
            rows = last[change.layout.table] = {}
        rows[change.key] = change
    return last


def grouped(folded: dict[str, dict[bytes, Change]], order: Sequence[str]) -> list[TableChanges]:
    """The folded changes ready for set-wise statements, tables in the given order."""
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
    assert len(groups) == len(folded), f"changes of tables that are not known: {folded.keys() - set(order)}"
    return groups


def parents_first(shapes: Iterable[TableShape]) -> list[str]:
    """``schema.table`` of every shape, referred tables before those that refer to them.

    Within a cycle the order is arbitrary: no order does there.
    """
    graph = {
        shape.full_name: {f"{k.referred_schema}.{k.referred_table}" for k in shape.foreign_keys} - {shape.full_name}
        for shape in shapes
    }
    for parents in graph.values():
        parents.intersection_update(graph)
    while True:
        try:
            return list(TopologicalSorter({table: sorted(graph[table]) for table in sorted(graph)}).static_order())
        except CycleError as error:
            # Each node of the cycle it found refers to the one before: without one such edge, look again.
            first, second = error.args[1][:2]
            graph[second].discard(first)
