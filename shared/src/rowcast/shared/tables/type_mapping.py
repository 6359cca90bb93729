"""Map SQLAlchemy's types on each engine to the portable types of a table's shape, and back.

``docs/reference/types.md`` shows users the same mapping. Keep both equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from rowcast.shared.tables.native_types import is_type
from rowcast.shared.tables.primary_features import carried_action, default_of, identity_of, indexes_of
from rowcast.shared.tables.shape import ColumnShape, ForeignKeyShape, PortableType, TableShape

MYSQL_FAMILY = frozenset(("mysql", "mariadb"))

SQLITE_DIGITS = 15
"""Digits that SQLite's numbers hold exactly. Decimals with more digits are in a column without a type, because such a
column takes numbers and texts."""

_MYSQL_DEFAULT_PRECISION = 10
_MYSQL_MAX_PRECISION = 65
_MYSQL_MAX_SCALE, _MARIADB_MAX_SCALE = 30, 38
_MYSQL_MAX_STRING = 4096
# MySQL indexes at most 3,072 bytes.
_MYSQL_MAX_KEY_STRING = 255


def engine_family(engine: str) -> str:
    """Return ``mysql`` for MariaDB too, because both accept the same DDL and expressions. Else return ``engine``."""
    return "mysql" if engine in MYSQL_FAMILY else engine


def storage_type(type_: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    """Return the column's real type on this engine, without variants and TypeDecorators.

    ``TypeEngine.dialect_impl`` alone turns CHAR into VARCHAR and REAL into FLOAT, because the parameters are equal.
    """
    while True:
        type_ = type_._variant_mapping.get(dialect.name, type_)
        if isinstance(type_, postgresql.DOMAIN):
            # Replicas use the base type, because the domain exists only at the source.
            type_ = type_.data_type
            continue
        if not isinstance(type_, TypeDecorator):
            return type_
        # Interval decorates DateTime on engines without an interval type, and is the engine's own type elsewhere.
        inner = type_.dialect_impl(dialect) if isinstance(type_, sqltypes.Interval) else None
        if inner is not None and not isinstance(inner, TypeDecorator):
            return inner
        type_ = type_.load_dialect_impl(dialect)


def portable_type(type_: TypeEngine[Any], dialect: Dialect) -> PortableType:
    """Return the portable type of the *stored* values. A type without one is ``native`` and travels as text."""
    stored = storage_type(type_, dialect)
    native = stored.compile(dialect=dialect)
    for sqlalchemy_types, describe in _PORTABLE_TYPES:
        if isinstance(stored, sqlalchemy_types):
            return replace(describe(stored, dialect), native=native)
    return PortableType("native", native=native)


def _always(type_: PortableType) -> Callable[[Any, Dialect], PortableType]:
    return lambda _stored, _dialect: type_


def _array(stored: sqltypes.ARRAY[Any], dialect: Dialect) -> PortableType:
    return PortableType("array", items=portable_type(stored.item_type, dialect))


def _enum(stored: sqltypes.Enum, dialect: Dialect) -> PortableType:
    if stored.native_enum or dialect.name == "sqlite":
        return PortableType("enum", length=stored.length, values=tuple(stored.enums))
    return PortableType("string", length=stored.length)


def _integer(stored: sqltypes.Integer, _dialect: Dialect) -> PortableType:
    # ZEROFILL implies UNSIGNED.
    unsigned = getattr(stored, "unsigned", False) or getattr(stored, "zerofill", False)
    if isinstance(stored, sqltypes.SmallInteger | mysql.TINYINT):
        return PortableType("int32" if unsigned else "int16")
    if isinstance(stored, sqltypes.BigInteger):
        return PortableType("uint64" if unsigned else "int64")
    return PortableType("int64" if unsigned else "int32")


def _float(stored: sqltypes.Float[Any], dialect: Dialect) -> PortableType:
    family = engine_family(dialect.name)
    if family == "sqlite" or isinstance(stored, sqltypes.Double):
        return PortableType("float64")
    if isinstance(stored, sqltypes.REAL):
        return PortableType("float64" if family == "mysql" else "float32")
    # FLOAT without a precision is single precision on MySQL, and double precision on PostgreSQL.
    precision = stored.precision or (0 if family == "mysql" else None)
    return PortableType("float32" if precision is not None and precision <= 24 else "float64")


def _decimal(stored: sqltypes.Numeric[Any], dialect: Dialect) -> PortableType:
    # DECIMAL without a precision is DECIMAL(10, 0) on MySQL, and has any number of digits on PostgreSQL.
    default = _MYSQL_DEFAULT_PRECISION if engine_family(dialect.name) == "mysql" else None
    return PortableType("decimal", precision=stored.precision or default, scale=stored.scale)


def _bytes(stored: Any, _dialect: Dialect) -> PortableType:
    return PortableType("bytes", length=getattr(stored, "length", None))


def _timestamp(stored: sqltypes.DateTime, dialect: Dialect) -> PortableType:
    # MySQL stores TIMESTAMP in UTC.
    in_utc = engine_family(dialect.name) == "mysql" and isinstance(stored, sqltypes.TIMESTAMP)
    return PortableType("timestamptz" if in_utc or stored.timezone else "timestamp")


def _time(stored: sqltypes.Time, dialect: Dialect) -> PortableType:
    return PortableType("timetz" if stored.timezone and dialect.name == "postgresql" else "time")


def _char(stored: sqltypes.CHAR, _dialect: Dialect) -> PortableType:
    return PortableType("char", length=stored.length)


def _string(stored: sqltypes.String, _dialect: Dialect) -> PortableType:
    return PortableType("string" if stored.length else "text", length=stored.length)


# The first match decides, and a subclass comes before the base.
_PORTABLE_TYPES: tuple[tuple[type[Any] | tuple[type[Any], ...], Callable[[Any, Dialect], PortableType]], ...] = (
    (sqltypes.ARRAY, _array),
    (sqltypes.Boolean, _always(PortableType("boolean"))),
    (sqltypes.Uuid, _always(PortableType("uuid"))),
    (sqltypes.Enum, _enum),
    ((mysql.SET, mysql.BIT, mysql.YEAR, postgresql.BIT, postgresql.OID), _always(PortableType("native"))),
    (sqltypes.Integer, _integer),
    (sqltypes.Float, _float),
    (sqltypes.Numeric, _decimal),
    (postgresql.MONEY, _always(PortableType("decimal", precision=19, scale=2))),
    (sqltypes.JSON, _always(PortableType("json"))),
    ((sqltypes.LargeBinary, sqltypes._Binary), _bytes),
    (sqltypes.Date, _always(PortableType("date"))),
    (sqltypes.DateTime, _timestamp),
    (sqltypes.Time, _time),
    ((postgresql.INTERVAL, sqltypes.Interval), _always(PortableType("interval"))),
    (sqltypes.CHAR, _char),
    (sqltypes.Text, _always(PortableType("text"))),
    (sqltypes.String, _string),
)


def shape_of(table: sa.Table, dialect: Dialect, default_schema: str) -> TableShape:
    """Return the shape of an application's table on this engine.

    ``default_schema``: the schema of a table without a schema.
    """
    schema = table.schema or default_schema
    unique = [tuple(str(c.name) for c in u.columns) for u in table.constraints if isinstance(u, sa.UniqueConstraint)]
    unique += [
        tuple(str(c.name) for c in index.columns)
        for index in table.indexes
        # A partial or functional unique index has no portable form.
        if index.unique and len(index.columns) == len(index.expressions) and not _is_partial(index)
    ]
    return TableShape(
        schema=str(schema),
        name=str(table.name),
        engine=dialect.name,
        columns=tuple(
            ColumnShape(
                str(c.name),
                portable_type(c.type, dialect),
                bool(c.nullable),
                c.computed is not None,
                identity=identity_of(c, dialect),
                default=default_of(c, dialect),
            )
            for c in table.columns
            # PostgreSQL's system columns, for example xmin, belong to the server of the row.
            if not c.system
        ),
        primary_key=tuple(str(c.name) for c in table.primary_key.columns),
        default_schema=schema == default_schema,
        unique=tuple(sorted({u for u in unique if u})),
        foreign_keys=tuple(sorted((_foreign_key(f, default_schema) for f in table.foreign_key_constraints), key=repr)),
        comment=table.comment,
        indexes=indexes_of(table, dialect),
    )


def _is_partial(index: sa.Index) -> bool:
    return any(value is not None for key, value in index.dialect_kwargs.items() if key.endswith("_where"))


def _foreign_key(constraint: sa.ForeignKeyConstraint, default_schema: str) -> ForeignKeyShape:
    referred = constraint.referred_table
    return ForeignKeyShape(
        tuple(str(c) for c in constraint.column_keys),
        str(referred.schema or default_schema),
        str(referred.name),
        tuple(str(e.column.name) for e in constraint.elements),
        carried_action(constraint.ondelete),
        carried_action(constraint.onupdate),
    )


def replica_type(type_: PortableType, source_engine: str, dialect: Dialect, *, key: bool = False) -> TypeEngine[Any]:
    """Return the type of a replica's column. ``key``: the column is part of a primary, unique or foreign key.

    On the source's own engine, the type is the native type. A PostgreSQL enum becomes text, so that a new label needs
    no DDL on the replica. On another engine, the type is the stored type of SQLAlchemy's generic type, so that the
    application's models can read the replica. The type is text where the generic type would round, cut or refuse
    values.
    """
    family = engine_family(dialect.name)
    # MySQL lacks MariaDB's UUID. The DDL comes from a message, so the DDL of anything but a type is not used.
    if engine_family(source_engine) == family and type_.native.upper() != "UUID" and is_type(type_.native):
        if family == "postgresql" and _is_enum(type_):
            return sa.ARRAY(sa.Text()) if type_.name == "array" else sa.Text()
        return NativeType(type_.native)
    if source_engine == "sqlite" and not key:
        # SQLite enforces neither lengths nor digits, so the replica must not either.
        numeric = type_.name == "decimal" and family == "postgresql"
        if numeric or type_.name in ("string", "char", "enum"):
            type_ = replace(type_, name="decimal" if numeric else "text", length=None, precision=None, scale=None)
    if source_engine == "postgresql" and type_.name == "uuid" and type_.native.upper() != "UUID":
        # An application without PostgreSQL's own type does not use the own type of another engine either.
        return sa.Uuid(native_uuid=False)
    return _generic_type(type_, dialect, key)


def _is_enum(type_: PortableType) -> bool:
    return type_.name == "enum" or (type_.items is not None and _is_enum(type_.items))


def _generic_type(type_: PortableType, dialect: Dialect, key: bool) -> TypeEngine[Any]:
    makers = _TYPES_BY_ENGINE.get(engine_family(dialect.name), {})
    make = makers.get(type_.name) or _GENERIC_TYPES[type_.name]
    return make(type_, dialect, key)


TypeMaker = Callable[[PortableType, Dialect, bool], TypeEngine[Any]]
"""Makes the type of a replica's column from its portable type, the dialect, and whether the column is part of a key."""


def _fixed(make: Callable[[], TypeEngine[Any]]) -> TypeMaker:
    return lambda _type, _dialect, _key: make()


def _make_text(type_: PortableType, _dialect: Dialect, _key: bool) -> TypeEngine[Any]:
    return sa.String(type_.length) if type_.length else sa.Text()


def _make_char(type_: PortableType, dialect: Dialect, key: bool) -> TypeEngine[Any]:
    return sa.CHAR(type_.length) if type_.length else _make_text(type_, dialect, key)


def _make_decimal(type_: PortableType, _dialect: Dialect, _key: bool) -> TypeEngine[Any]:
    return sa.Numeric(type_.precision, type_.scale)


def _make_mysql_text(type_: PortableType, _dialect: Dialect, key: bool) -> TypeEngine[Any]:
    if type_.length and type_.length <= _MYSQL_MAX_STRING:
        return sa.String(type_.length)
    return sa.String(_MYSQL_MAX_KEY_STRING) if key else mysql.LONGTEXT()


def _make_mysql_char(type_: PortableType, dialect: Dialect, key: bool) -> TypeEngine[Any]:
    return sa.CHAR(type_.length) if type_.length else _make_mysql_text(type_, dialect, key)


def _make_mysql_bytes(type_: PortableType, _dialect: Dialect, key: bool) -> TypeEngine[Any]:
    return sa.VARBINARY(type_.length or _MYSQL_MAX_KEY_STRING) if key else mysql.LONGBLOB()


def _make_mysql_decimal(type_: PortableType, dialect: Dialect, key: bool) -> TypeEngine[Any]:
    if _is_mysql_decimal(type_, dialect):
        return _make_decimal(type_, dialect, key)
    return _make_mysql_text(replace(type_, length=None), dialect, key)


def _is_mysql_decimal(type_: PortableType, dialect: Dialect) -> bool:
    """Return whether a DECIMAL of MariaDB or MySQL holds every value of the type."""
    max_scale = _MARIADB_MAX_SCALE if getattr(dialect, "is_mariadb", False) else _MYSQL_MAX_SCALE
    return (
        type_.precision is not None
        and type_.precision <= _MYSQL_MAX_PRECISION
        and 0 <= (type_.scale or 0) <= min(max_scale, type_.precision)
    )


def _make_sqlite_decimal(type_: PortableType, dialect: Dialect, key: bool) -> TypeEngine[Any]:
    is_exact = 1 <= (type_.precision or 0) <= SQLITE_DIGITS
    return _make_decimal(type_, dialect, key) if is_exact else NativeType("")


_TEXT_NAMES = ("string", "text", "enum", "native", "interval", "timetz")

_GENERIC_TYPES: Mapping[str, TypeMaker] = {
    "boolean": _fixed(lambda: sa.Boolean(create_constraint=False)),
    "int16": _fixed(sa.SmallInteger),
    "int32": _fixed(sa.Integer),
    "int64": _fixed(sa.BigInteger),
    "uint64": _fixed(lambda: sa.Numeric(20, 0)),
    "float32": _fixed(sa.Double),
    "float64": _fixed(sa.Double),
    "decimal": _make_decimal,
    "char": _make_char,
    **dict.fromkeys(_TEXT_NAMES, _make_text),
    "bytes": _fixed(sa.LargeBinary),
    "date": _fixed(sa.Date),
    "time": _fixed(sa.Time),
    "timestamp": _fixed(sa.DateTime),
    "timestamptz": _fixed(lambda: sa.DateTime(timezone=True)),
    "uuid": _fixed(sa.Uuid),
    # Not JSON on SQLite: a column of type JSON turns the document 1.5 into a number.
    "json": _fixed(sa.Text),
    "array": _fixed(sa.Text),
}

# Exceptions from the generic type, by engine.
_TYPES_BY_ENGINE: Mapping[str, Mapping[str, TypeMaker]] = {
    "postgresql": {"json": _fixed(postgresql.JSON)},
    "mysql": {
        "uint64": _fixed(lambda: mysql.BIGINT(unsigned=True)),
        "decimal": _make_mysql_decimal,
        "char": _make_mysql_char,
        **dict.fromkeys(_TEXT_NAMES, _make_mysql_text),
        "bytes": _make_mysql_bytes,
        "time": _fixed(lambda: mysql.TIME(fsp=6)),
        "timestamp": _fixed(lambda: mysql.DATETIME(fsp=6)),
        "timestamptz": _fixed(lambda: mysql.DATETIME(fsp=6)),
        "json": _fixed(mysql.LONGTEXT),
        "array": _fixed(mysql.LONGTEXT),
    },
    "sqlite": {"uint64": _fixed(lambda: NativeType("")), "decimal": _make_sqlite_decimal},
}


class NativeType(sqltypes.UserDefinedType[Any]):
    """Name a type by its DDL alone."""

    cache_ok = True

    def __init__(self, ddl: str) -> None:
        self.ddl = ddl

    def get_col_spec(self, **_: Any) -> str:
        """Return the DDL."""
        return self.ddl
