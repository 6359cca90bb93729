"""Find the present names of renamed tables, from the former names in shapes."""

from __future__ import annotations

from collections.abc import Iterable

from rowcast.shared.tables.shape import TableShape


def renamed_tables(shapes: Iterable[TableShape]) -> dict[str, str]:
    """Return the present name of each former name, both as ``schema.table``.

    ``shapes``: the newest shape of each name, former names included, sorted by the time when the shape became the
    newest. A table renamed back is present, because its shape became the newest later. A table with a different primary
    key is a different table.
    """
    by_name = {shape.full_name: shape for shape in shapes}
    later: dict[str, str] = {}
    for name, shape in by_name.items():
        if shape.was:
            later.pop(name, None)
        for former in shape.was:
            known = by_name.get(former)
            if former != name and (known is None or known.primary_key == shape.primary_key):
                later[former] = name
    return {former: _last_name(former, later) for former in later}


def _last_name(name: str, later: dict[str, str]) -> str:
    """Follow the renames to the end. A circle is impossible, because each rename has a later shape than the last."""
    while name in later:
        name = later[name]
    return name
