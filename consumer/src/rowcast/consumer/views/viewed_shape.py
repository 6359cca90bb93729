"""Make the shape of a replica's table from the shape of the source and a view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from rowcast.consumer.views.table_view import TableView, masked_column
from rowcast.shared.tables.shape import ColumnShape, ForeignKeyShape, IndexShape, TableShape


class Views(Protocol):
    """The views of all tables of a replica."""

    def of_table(self, full_name: str) -> TableView | None:
        """Return the view of a table, or None."""


@dataclass(frozen=True, slots=True)
class ViewedShape:
    """The shape of a replica's table, and the constraints impossible in the replica, each as text for people."""

    shape: TableShape
    left_out: tuple[str, ...] = ()


def viewed_shape(shape: TableShape, view: TableView | None, views: Views) -> ViewedShape:
    """Return the shape of the replica's table. ``views``: for the tables referred to by foreign keys."""
    left_out: list[str] = []
    foreign_keys = tuple(_foreign_keys(shape, view, views, left_out))
    if view is None:
        if foreign_keys == shape.foreign_keys:
            return ViewedShape(shape)
        return ViewedShape(replace(shape, foreign_keys=foreign_keys), tuple(left_out))
    clear, names = view.clear, view.taken
    unique = tuple(_unique(shape, clear, names, left_out))
    viewed = replace(
        shape,
        columns=tuple(viewed_columns(shape, view)),
        unique=unique,
        foreign_keys=foreign_keys,
        indexes=tuple(_indexes(shape, clear, names)),
        where=_joined(shape.where, view.settings.where),
        view=view.viewed(shape),
    )
    return ViewedShape(viewed, tuple(left_out))


def viewed_columns(shape: TableShape, view: TableView) -> Iterator[ColumnShape]:
    """Yield the columns of the replica's table, for the newest shape of the source."""
    for column in shape.columns:
        name = view.taken.get(column.name)
        if name is not None:
            masked = masked_column(view, column.name, column)
            # A column named by the view keeps the name when the source renames the column.
            yield masked if name == column.name else replace(masked, name=name, was=())


def _unique(
    shape: TableShape, clear: frozenset[str], names: Mapping[str, str], left_out: list[str]
) -> Iterator[tuple[str, ...]]:
    for columns in shape.unique:
        if clear.issuperset(columns):
            yield tuple(names[column] for column in columns)
        else:
            left_out.append(f"the unique key ({', '.join(columns)}), because the view masks or leaves out a column")


def _indexes(shape: TableShape, clear: frozenset[str], names: Mapping[str, str]) -> Iterator[IndexShape]:
    for index in shape.indexes:
        if clear.issuperset(index.columns):
            yield replace(index, columns=tuple(names[column] for column in index.columns))


def _foreign_keys(
    shape: TableShape, view: TableView | None, views: Views, left_out: list[str]
) -> Iterator[ForeignKeyShape]:
    for key in shape.foreign_keys:
        referred_name = f"{key.referred_schema}.{key.referred_table}"
        what = f"the foreign key ({', '.join(key.columns)}) to {referred_name}"
        if view is not None and not view.clear.issuperset(key.columns):
            left_out.append(f"{what}, because the view masks or leaves out a column")
            continue
        referred = view if referred_name == shape.full_name else views.of_table(referred_name)
        if referred is not None and referred.condition is not None:
            left_out.append(f"{what}, because the replica does not get all rows there")
        elif referred is not None and not referred.clear.issuperset(key.referred_columns):
            left_out.append(f"{what}, because the view there masks or leaves out a column")
        else:
            yield replace(
                key,
                columns=key.columns if view is None else _renamed(key.columns, view),
                referred_columns=key.referred_columns if referred is None else _renamed(key.referred_columns, referred),
            )


def _renamed(columns: tuple[str, ...], view: TableView) -> tuple[str, ...]:
    return tuple(view.taken[column] for column in columns)


def _joined(source: str | None, own: str | None) -> str | None:
    """Return the row filters of source and view as one text for people."""
    if source is None or own is None:
        return own if source is None else source
    return f"({source}) AND ({own})"
