"""Parse the JSON documents of shapes, from the schema topic and from the databases' own tables.

A shape becomes DDL on replicas, so the document of an impossible table is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from rowcast.shared.errors import DataError
from rowcast.shared.strict_form import Name, StrictForm, checked
from rowcast.shared.tables.own_tables import is_rowcast_table
from rowcast.shared.tables.server_defaults import DEFAULT_KINDS, NUMBER, ServerDefault
from rowcast.shared.tables.shape import (
    TYPE_NAMES,
    ColumnShape,
    ForeignKeyShape,
    IdentityShape,
    IndexShape,
    Masking,
    PortableType,
    TableShape,
    ViewedColumn,
    ViewShape,
)

# PostgreSQL has the largest: 10,485,760 characters and 1,000 digits. Text types of MySQL have 4 GB.
_Length = Annotated[int, Field(ge=0, le=2**32)]
_Digits = Annotated[int, Field(ge=-1_000, le=1_000)]

_Names = Annotated[tuple[Name, ...], Field(min_length=1)]
_Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]


def _known_type(name: str) -> str:
    if name not in TYPE_NAMES:
        raise ValueError(f"unknown column type {name!r}. A newer version of rowcast wrote it: upgrade this one")
    return name


class _Type(StrictForm):
    name: Annotated[str, AfterValidator(_known_type)]
    length: _Length | None = None
    precision: _Digits | None = None
    scale: _Digits | None = None
    values: tuple[_Text, ...] | None = ()
    items: _Type | None = None
    native: _Text | None = ""

    def type(self) -> PortableType:
        items = None if self.items is None else self.items.type()
        return PortableType(
            self.name, self.length, self.precision, self.scale, self.values or (), items, self.native or ""
        )


class _Masking(StrictForm):
    mask: _Text | None = None
    truncate: _Length | None = None
    hash: _Text | None = None


_Count = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Identity(StrictForm):
    always: bool = False
    start: _Count | None = None
    increment: _Count | None = None
    sequence: Name | None = None


class _Default(StrictForm):
    kind: _Text
    value: _Text = ""

    @model_validator(mode="after")
    def _has_a_value(self) -> _Default:
        if self.kind == "number" and not NUMBER.fullmatch(self.value):
            raise ValueError("the default of a column is no number")
        if self.kind == "boolean" and self.value not in ("true", "false"):
            raise ValueError("the default of a column is neither true nor false")
        return self

    def default(self) -> ServerDefault:
        """Return the default. An unknown kind of a newer version is shown to people only."""
        return ServerDefault(self.kind if self.kind in DEFAULT_KINDS else "other", self.value)


class _Column(StrictForm):
    name: Name
    type: _Type
    nullable: bool
    generated: bool
    masking: _Masking | None = None
    identity: _Identity | None = None
    default: _Default | None = None
    was: tuple[Name, ...] = ()

    def column(self) -> ColumnShape:
        return ColumnShape(
            self.name,
            self.type.type(),
            self.nullable,
            self.generated,
            None if self.masking is None else Masking(**dict(self.masking)),
            None if self.identity is None else IdentityShape(**dict(self.identity)),
            None if self.default is None else self.default.default(),
            self.was,
        )


# A closed list, because the word becomes part of a statement.
_Action = Literal["CASCADE", "SET NULL", "SET DEFAULT"]


class _ForeignKey(StrictForm):
    columns: _Names
    referred_schema: Name
    referred_table: Name
    referred_columns: _Names
    on_delete: _Action | None = None
    on_update: _Action | None = None


class _Index(StrictForm):
    name: Name
    columns: tuple[Name, ...]
    unique: bool = False
    left_out: _Text | None = None


class _Shape(StrictForm):
    schema_: Annotated[Name, Field(alias="schema")]
    name: Name
    engine: Name
    columns: Annotated[tuple[_Column, ...], Field(min_length=1)]
    primary_key: _Names
    default_schema: bool
    unique: tuple[_Names, ...]
    foreign_keys: tuple[_ForeignKey, ...]
    comment: _Text | None = None
    where: _Text | None = None
    indexes: tuple[_Index, ...] = ()
    was: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _describes_a_table(self) -> _Shape:
        if is_rowcast_table(self.name):
            raise ValueError(f"{self.name!r} is the name of a table of rowcast")
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError("two columns have one name")
        for what, columns in self._keys():
            if unknown := set(columns).difference(names):
                raise ValueError(f"{what} names {', '.join(sorted(unknown))}, and the table has no such column")
            if len(set(columns)) < len(columns):
                raise ValueError(f"{what} names a column twice")
        for key in self.foreign_keys:
            if len(key.columns) != len(key.referred_columns):
                raise ValueError("a foreign key refers to another number of columns")
        return self

    def _keys(self) -> list[tuple[str, tuple[str, ...]]]:
        unique = [("a unique key", columns) for columns in self.unique]
        foreign = [("a foreign key", key.columns) for key in self.foreign_keys]
        indexes = [("an index", index.columns) for index in self.indexes if index.left_out is None]
        return [("the primary key", self.primary_key), *unique, *foreign, *indexes]

    def shape(self) -> TableShape:
        return TableShape(
            schema=self.schema_,
            name=self.name,
            engine=self.engine,
            columns=tuple(column.column() for column in self.columns),
            primary_key=self.primary_key,
            default_schema=self.default_schema,
            unique=self.unique,
            foreign_keys=tuple(ForeignKeyShape(**dict(key)) for key in self.foreign_keys),
            comment=self.comment,
            where=self.where,
            indexes=tuple(IndexShape(**dict(index)) for index in self.indexes),
            was=self.was,
        )


class _ViewedColumn(StrictForm):
    name: Name
    taken_as: Name | None
    mask: _Text | None = None


class _View(StrictForm):
    schema_: Annotated[Name | None, Field(alias="schema")] = None
    name: Name | None = None
    where: _Text | None = None
    columns: tuple[_ViewedColumn, ...] = ()

    def view(self) -> ViewShape:
        columns = tuple(ViewedColumn(column.name, column.taken_as, column.mask) for column in self.columns)
        return ViewShape(self.schema_, self.name, self.where, columns)


class _RecordedShape(_Shape):
    view: _View | None = None

    def shape(self) -> TableShape:
        shape = super().shape()
        return shape if self.view is None else replace(shape, view=self.view.view())


def parse_shape(text: bytes | str) -> TableShape:
    """Return the shape of a JSON document. Raises DataError, with the reason, if the document is no table's shape."""
    return checked(
        lambda document: _Shape.model_validate_json(document).shape(), text, "not a table's shape", DataError
    )


def parse_recorded_shape(text: bytes | str) -> TableShape:
    """Return the recorded shape in a replica, with the view. Raise as ``parse_shape``.

    A message of the schema topic has no view, because only the replica's own configuration may choose one.
    """
    return checked(
        lambda document: _RecordedShape.model_validate_json(document).shape(), text, "not a table's shape", DataError
    )
