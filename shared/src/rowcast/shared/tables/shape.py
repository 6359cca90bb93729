"""Describe tables for consumers, to create replicas without the application's models."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import orjson

from rowcast.shared.tables.server_defaults import ServerDefault

TypeName = Literal[
    "boolean", "int16", "int32", "int64", "uint64", "float32", "float64", "decimal", "string", "char", "text", "bytes",
    "date", "time", "timetz", "timestamp", "timestamptz", "interval", "uuid", "json", "enum", "array", "native",
]  # fmt: skip
TYPE_NAMES: frozenset[str] = frozenset(get_args(TypeName))
INTEGER_TYPES: frozenset[str] = frozenset(("int16", "int32", "int64", "uint64"))


@dataclass(frozen=True, slots=True)
class PortableType:
    """Describe a column's type without reference to an engine.

    ``name`` is in TYPE_NAMES. ``length`` counts characters (string, char) or bytes (bytes). ``precision`` and ``scale``
    belong to decimal, ``values`` are an enum's labels, and ``items`` is an array's element type. ``native`` is the DDL
    on the primary's engine. A replica on the primary's engine uses the DDL unchanged.
    """

    name: str
    length: int | None = None
    precision: int | None = None
    scale: int | None = None
    values: tuple[str, ...] = ()
    items: PortableType | None = None
    native: str = ""


@dataclass(frozen=True, slots=True)
class Masking:
    """Say how a column is masked. Exactly one member is not None. ``mask``: the text that replaces every value.

    ``truncate``: the number of published characters. ``hash``: the hexadecimal digest (sha224, sha256, sha384 or
    sha512) of a salt and the value is published. The salt is secret and not part of the shape.
    """

    mask: str | None = None
    truncate: int | None = None
    hash: str | None = None


@dataclass(frozen=True, slots=True)
class IdentityShape:
    """Describe how the primary numbers the rows of a column.

    ``always``: the application cannot give values of its own. ``start`` and ``increment``: None if not given.
    ``sequence``: the sequence of the application, or None for the engine's own counter.
    """

    always: bool = False
    start: int | None = None
    increment: int | None = None
    sequence: str | None = None


@dataclass(frozen=True, slots=True)
class IndexShape:
    """Describe an index.

    ``left_out``: why the index has no portable form (``expression``, ``partial``, ``method`` ...), or None. ``columns``
    is empty then.
    """

    name: str
    columns: tuple[str, ...]
    unique: bool = False
    left_out: str | None = None


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """Describe a column.

    ``generated``: the primary computes the column, and a replica stores its value. ``type`` is the type of the
    published value, which is text for a masked column. ``identity``: the primary numbers the rows. ``default``: the
    primary fills the column of a new row. ``was``: the former names of the column.
    """

    name: str
    type: PortableType
    nullable: bool = True
    generated: bool = False
    masking: Masking | None = None
    identity: IdentityShape | None = None
    default: ServerDefault | None = None
    was: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ForeignKeyShape:
    """Describe a foreign key from ``columns`` to ``referred_columns`` of ``referred_schema.referred_table``.

    ``on_delete`` and ``on_update``: the primary's actions, as CASCADE, or None for NO ACTION and RESTRICT.
    """

    columns: tuple[str, ...]
    referred_schema: str
    referred_table: str
    referred_columns: tuple[str, ...]
    # Not part of repr, because the names of the replica's constraints are made of repr.
    on_delete: str | None = field(default=None, repr=False)
    on_update: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ViewedColumn:
    """Describe a source's column in a view.

    ``taken_as``: the column's name in the replica, or None for a left out column. ``mask``: the mask, as in the
    configuration.
    """

    name: str
    taken_as: str | None
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class ViewShape:
    """Describe the view through which a replica gets a table.

    ``schema`` and ``name``: the table's place in the replica, each None if unchanged. ``where``: the condition over the
    rows, or None for all rows. ``columns``: the columns of the source at the time of the record.
    """

    schema: str | None = None
    name: str | None = None
    where: str | None = None
    columns: tuple[ViewedColumn, ...] = ()

    @property
    def renames(self) -> bool:
        """Return whether the table or a column has another name in the replica."""
        renamed = any(column.taken_as not in (None, column.name) for column in self.columns)
        return renamed or self.schema is not None or self.name is not None

    @property
    def left_out(self) -> tuple[str, ...]:
        """Return the columns left out of the replica."""
        return tuple(column.name for column in self.columns if column.taken_as is None)

    @property
    def lacking(self) -> str:
        """Return the parts of the table missing in the replica in words, or "" if nothing is missing."""
        masked = [column.name for column in self.columns if column.mask is not None]
        parts = [f"without {', '.join(self.left_out)}"] if self.left_out else []
        parts += [f"{', '.join(masked)} masked"] if masked else []
        parts += [f"only rows where {self.where}"] if self.where is not None else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class TableShape:
    """Describe a table.

    ``schema`` is never empty. Without a schema in the application, ``schema`` is the engine's default schema
    (``public``, the name of the MariaDB database, ``main``) and ``default_schema`` is true. ``engine`` is SQLAlchemy's
    name of the primary's dialect (``postgresql``, ``mysql``, ``mariadb``, ``sqlite``). ``where`` is the row filter, an
    SQL condition on the primary, or None. ``was``: the former names of the table, as ``full_name`` has them. ``view``:
    the view between the source's shape and this shape, for a replica's table.
    """

    schema: str
    name: str
    engine: str
    columns: tuple[ColumnShape, ...]
    primary_key: tuple[str, ...]
    default_schema: bool = True
    unique: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[ForeignKeyShape, ...] = ()
    comment: str | None = field(default=None, compare=False)
    where: str | None = None
    indexes: tuple[IndexShape, ...] = ()
    was: tuple[str, ...] = ()
    view: ViewShape | None = None

    @property
    def full_name(self) -> str:
        """Return ``schema.table``, the name in events, outbox lines and messages."""
        return f"{self.schema}.{self.name}"

    @property
    def version(self) -> str:
        """Return twelve hexadecimal digits for the shape in events and outbox lines."""
        return hashlib.sha256(self.to_json()).hexdigest()[:12]

    def column(self, name: str) -> ColumnShape:
        """Return the column of this name. Raises KeyError for an unknown name."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def new_names(self, names: Collection[str]) -> dict[str, str]:
        """Return the present name of each renamed column of ``names``.

        A name that differs only in case is a former name, because many engines ignore the case. A name is no former
        name while a column has the name. A renamed column of the primary key is left out, because the key is a
        different key then.
        """
        present = {column.name for column in self.columns}
        gone = {name for name in names if name not in present}
        folded = {name.lower(): name for name in gone}
        found: dict[str, str] = {}
        for column in self.columns if gone else ():
            if column.name not in names and column.name not in self.primary_key:
                formers = [name for name in column.was if name in gone]
                if (name := folded.get(column.name.lower())) is not None:
                    formers.append(name)
                found |= dict.fromkeys(formers, column.name)
        return found

    def with_columns(self, columns: Iterable[ColumnShape]) -> TableShape:
        """Return the shape with new columns.

        Only the primary key stays of the constraints, because constraints name columns.
        """
        return replace(self, columns=tuple(columns), unique=(), foreign_keys=(), indexes=())

    def named_as(self, other: TableShape) -> TableShape:
        """Return the shape with the name of another shape."""
        return replace(self, schema=other.schema, name=other.name, default_schema=other.default_schema)

    def to_json(self) -> bytes:
        """Return the value of a message on the schema topic, without its ``lsn``. ``parse_shape`` is the inverse."""
        return orjson.dumps(self, _members, orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS)


# Empty members are left out of the document, so that the version of the shape is the version of earlier releases.
_LATER_MEMBERS = frozenset(("identity", "default", "was", "on_delete", "on_update", "indexes", "view"))


def _members(described: Any) -> dict[str, Any]:
    """Return the members by name. ``dataclasses.asdict`` also copies every value, and takes several times as long."""
    members = {name: getattr(described, name) for name in described.__slots__}
    return {name: value for name, value in members.items() if value or name not in _LATER_MEMBERS}
