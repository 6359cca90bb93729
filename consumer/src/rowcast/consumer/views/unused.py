"""Find the unused names in views, because a mistyped name leaves a table or a column unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from rowcast.shared.config.view_settings import ViewSettings
from rowcast.shared.suggestions import did_you_mean
from rowcast.shared.tables.shape import TableShape


def unused_names(views: Mapping[str, ViewSettings], shapes: Iterable[TableShape]) -> Iterator[str]:
    """Yield a sentence for each view without a table, and for each column of a view missing in all tables.

    ``shapes``: the newest shapes of the replica's tables at the source. A view may wait for a table of the future.
    """
    tables = {name: shape for shape in shapes for name in (*shape.was, shape.full_name)}
    for pattern, view in views.items():
        matching = [shape for name, shape in tables.items() if name == pattern or fnmatchcase(name, pattern)]
        if not matching:
            yield f"the view of {pattern} matches no table.{did_you_mean(pattern, tables)}"
            continue
        columns = {name for shape in matching for one in shape.columns for name in (one.name, *one.was)}
        for name in dict.fromkeys((*(view.columns or ()), *view.without, *view.rename, *view.mask)):
            if name not in columns:
                yield f"the view of {pattern} names column {name}, which no table has.{did_you_mean(name, columns)}"
