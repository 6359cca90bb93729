"""The portable shape of a table: what a consumer must know to create it without the application's models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import orjson

from rowcast.shared.errors import DataError

TypeName = Literal[
    "boolean", "int16", "int32", "int64", "uint64", "float32", "float64", "decimal", "string", "char", "text", "bytes",
    "date", "time", "timetz", "timestamp", "timestamptz", "interval", "uuid", "json", "enum", "array", "native",
]  # fmt: skip
TYPE_NAMES: frozenset[str] = frozenset(get_args(TypeName))


@dataclass(frozen=True, slots=True)
class PortableType:
    """A column's type in words that every engine knows.

    ``name`` is one of TYPE_NAMES. ``length`` counts characters (string, char) or bytes (bytes); ``precision`` and
    ``scale`` are those of decimal; ``values`` are an enum's labels; ``items`` is an array's element type; ``native`` is
    the DDL of the source's engine, which a replica of the same engine uses as it is.
    """

    name: str
    length: int | None = None
    precision: int | None = None
    scale: int | None = None
    values: tuple[str, ...] = ()
    items: PortableType | None = None
    native: str = ""

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> PortableType:
        """Raises DataError if ``name`` is unknown."""
        name = data["name"]
        if name not in TYPE_NAMES:
            raise DataError(
                f"unknown column type {name!r}: is this rowcast older than the one that wrote it? Upgrade it."
            )
        items = data.get("items")
        return PortableType(
            name, data.get("length"), data.get("precision"), data.get("scale"), tuple(data.get("values") or ()),
            PortableType.from_dict(items) if items else None, data.get("native") or "",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Masking:
    """What became of a column's values before they left the primary; one of the three is not None.

    ``mask``: this text stands for every value; ``truncate``: the first so many characters; ``hash``: the hexadecimal
    digest (sha224, sha256, sha384, sha512) of a salt, which is secret and not told here, and the value.
    """

    mask: str | None = None
    truncate: int | None = None
    hash: str | None = None


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """One column. ``generated`` columns are computed by the primary; a replica stores their value. ``type`` is that of
    what leaves: text, where ``masking`` says that it is not the value itself."""

    name: str
    type: PortableType
    nullable: bool = True
    generated: bool = False
    masking: Masking | None = None


@dataclass(frozen=True, slots=True)
class ForeignKeyShape:
    """A foreign key from ``columns`` to ``referred_columns`` of ``referred_schema.referred_table``."""

    columns: tuple[str, ...]
    referred_schema: str
    referred_table: str
    referred_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableShape:
    """One table. ``schema`` is never empty: where the application names none it is the engine's default one
    (``public``, the MariaDB database's name, ``main``), and then ``default_schema`` is true. ``engine`` is
    SQLAlchemy's dialect name of the primary (``postgresql``, ``mysql``, ``mariadb``, ``sqlite``). ``where``: only rows
    for which this SQL condition is true on the primary leave it."""

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

    @property
    def full_name(self) -> str:
        """``schema.table``, the name that events, outbox lines and messages use."""
        return f"{self.schema}.{self.name}"

    @property
    def version(self) -> str:
        """Twelve hex digits that change whenever the shape does; events and outbox lines carry them."""
        return hashlib.sha256(self.to_json()).hexdigest()[:12]

    def column(self, name: str) -> ColumnShape:
        """Raises KeyError if there is no such column."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def to_json(self) -> bytes:
        """The value of a message on the ``<source>.schema`` topic, without its ``lsn``."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)

    @staticmethod
    def from_json(text: bytes | str) -> TableShape:
        """Raises DataError, with the reason, if ``text`` is no shape."""
        try:
            data = orjson.loads(text)
            return TableShape(
                schema=data["schema"],
                name=data["name"],
                engine=data["engine"],
                columns=tuple(
                    ColumnShape(
                        c["name"],
                        PortableType.from_dict(c["type"]),
                        c["nullable"],
                        c["generated"],
                        Masking(**c["masking"]) if c.get("masking") else None,
                    )
                    for c in data["columns"]
                ),
                primary_key=tuple(data["primary_key"]),
                default_schema=data["default_schema"],
                unique=tuple(tuple(u) for u in data["unique"]),
                foreign_keys=tuple(
                    ForeignKeyShape(
                        tuple(f["columns"]), f["referred_schema"], f["referred_table"], tuple(f["referred_columns"])
                    )
                    for f in data["foreign_keys"]
                ),
                comment=data.get("comment"),
                where=data.get("where"),
            )
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"this is not a table's shape ({error!r}): {text[:200]!r}") from error
