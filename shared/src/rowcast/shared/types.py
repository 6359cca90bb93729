"""Between SQLAlchemy's types, on each engine, and the portable types of a table's shape.

``docs/reference/types.md`` has the same mapping as a table for users; keep them alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from rowcast.shared.shapes import ColumnShape, ForeignKeyShape, PortableType, TableShape

MYSQL_FAMILY = frozenset(("mysql", "mariadb"))

SQLITE_DIGITS = 15
"""So many digits of a decimal SQLite's numbers hold for certain. What may have more is in a column without a type,
which takes numbers and texts."""


def engine_family(engine: str) -> str:
    """MySQL and MariaDB take each other's DDL and expressions."""
    return "mysql" if engine in MYSQL_FAMILY else engine


def storage_type(type_: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    """The type the column really has on this engine: variants chosen, TypeDecorators taken off.

    ``TypeEngine.dialect_impl`` alone would not do: it adapts CHAR to VARCHAR and REAL to FLOAT, since those bind alike.
    """
    while True:
        type_ = type_._variant_mapping.get(dialect.name, type_)
        if isinstance(type_, postgresql.DOMAIN):
            # A replica has no such domain; what it is made of says what its values are.
            type_ = type_.data_type
            continue
        if not isinstance(type_, TypeDecorator):
            return type_
        # Interval is a decorator over DateTime where the engine has no interval, and the engine's own where it has.
        inner = type_.dialect_impl(dialect) if isinstance(type_, sqltypes.Interval) else None
        if inner is not None and not isinstance(inner, TypeDecorator):
            return inner
        type_ = type_.load_dialect_impl(dialect)


def portable_type(type_: TypeEngine[Any], dialect: Dialect) -> PortableType:
    """The portable type of what is *stored*; a type without one is ``native`` and travels as text."""
    stored = storage_type(type_, dialect)
    native = stored.compile(dialect=dialect)
    family = engine_family(dialect.name)
    if isinstance(stored, sqltypes.ARRAY):
        return PortableType("array", items=portable_type(stored.item_type, dialect), native=native)
    if isinstance(stored, sqltypes.Boolean):
        return PortableType("boolean", native=native)
    if isinstance(stored, sqltypes.Uuid):
        return PortableType("uuid", native=native)
    if isinstance(stored, sqltypes.Enum):
        if stored.native_enum or family == "sqlite":
            return PortableType("enum", length=stored.length, values=tuple(stored.enums), native=native)
        return PortableType("string", length=stored.length, native=native)
    if isinstance(stored, (mysql.SET, mysql.BIT, mysql.YEAR, postgresql.BIT, postgresql.OID)):
        return PortableType("native", native=native)
    if isinstance(stored, sqltypes.Integer):
        return PortableType(_integer_name(stored), native=native)
    if isinstance(stored, sqltypes.Float):
        return PortableType(_float_name(stored, family), native=native)
    if isinstance(stored, sqltypes.Numeric):
        # DECIMAL alone is DECIMAL(10, 0) on MariaDB and MySQL, any number of digits on PostgreSQL.
        precision = stored.precision or (10 if family == "mysql" else None)
        return PortableType("decimal", precision=precision, scale=stored.scale, native=native)
    if isinstance(stored, postgresql.MONEY):
        return PortableType("decimal", precision=19, scale=2, native=native)
    if isinstance(stored, sqltypes.JSON):
        return PortableType("json", native=native)
    if isinstance(stored, sqltypes.LargeBinary | sqltypes._Binary):
        return PortableType("bytes", length=getattr(stored, "length", None), native=native)
    if isinstance(stored, sqltypes.Date):
        return PortableType("date", native=native)
    if family == "mysql" and isinstance(stored, sqltypes.TIMESTAMP):
        return PortableType("timestamptz", native=native)
    if isinstance(stored, sqltypes.DateTime):
        return PortableType("timestamptz" if stored.timezone else "timestamp", native=native)
    if isinstance(stored, sqltypes.Time):
        return PortableType("timetz" if stored.timezone and family == "postgresql" else "time", native=native)
    if isinstance(stored, postgresql.INTERVAL | sqltypes.Interval):
        return PortableType("interval", native=native)
    if isinstance(stored, sqltypes.CHAR):
        return PortableType("char", length=stored.length, native=native)
    if isinstance(stored, sqltypes.Text):
        return PortableType("text", native=native)
    if isinstance(stored, sqltypes.String):
        return PortableType("string" if stored.length else "text", length=stored.length, native=native)
    return PortableType("native", native=native)


def _integer_name(stored: sqltypes.Integer) -> str:
    # What is filled with zeros has no sign.
    unsigned = getattr(stored, "unsigned", False) or getattr(stored, "zerofill", False)
    if isinstance(stored, sqltypes.SmallInteger | mysql.TINYINT):
        return "int32" if unsigned else "int16"
    if isinstance(stored, sqltypes.BigInteger):
        return "uint64" if unsigned else "int64"
    return "int64" if unsigned else "int32"


def _float_name(stored: sqltypes.Float[Any], family: str) -> str:
    if family == "sqlite" or isinstance(stored, sqltypes.Double):
        return "float64"
    if isinstance(stored, sqltypes.REAL):
        return "float64" if family == "mysql" else "float32"
    if family == "mysql":
        return "float32" if (stored.precision or 0) <= 24 else "float64"
    # PostgreSQL: FLOAT without a precision is double precision.
    return "float32" if stored.precision is not None and stored.precision <= 24 else "float64"


def shape_of(table: sa.Table, dialect: Dialect, default_schema: str) -> TableShape:
    """The shape of an application's table as it is on this engine.

    ``default_schema`` is what the connection calls the schema of a table that names none.
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
            ColumnShape(str(c.name), portable_type(c.type, dialect), bool(c.nullable), c.computed is not None)
            for c in table.columns
        ),
        primary_key=tuple(str(c.name) for c in table.primary_key.columns),
        default_schema=schema == default_schema,
        unique=tuple(sorted({u for u in unique if u})),
        foreign_keys=tuple(sorted((_foreign_key(f, default_schema) for f in table.foreign_key_constraints), key=repr)),
        comment=table.comment,
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
    )


def replica_type(type_: PortableType, source_engine: str, dialect: Dialect, *, key: bool = False) -> TypeEngine[Any]:
    """The type of a replica's column. ``key`` columns (primary, unique, foreign) must be indexable on MariaDB.

    On the source's own engine it is the native type; a PostgreSQL enum becomes text there, so that a new label needs
    no DDL on the replica. Elsewhere it is what SQLAlchemy's generic type stores on that engine, so that the
    application's own models can read the replica; and text where that would round, cut or refuse what the source holds.
    """
    family = engine_family(dialect.name)
    # MariaDB's UUID is not there on MySQL.
    if engine_family(source_engine) == family and type_.native and type_.native.upper() != "UUID":
        if family == "postgresql" and _is_enum(type_):
            return sa.ARRAY(sa.Text()) if type_.name == "array" else sa.Text()
        return NativeType(type_.native)
    if source_engine == "sqlite" and not key:
        # SQLite minds neither lengths nor digits, so the replica must not.
        numeric = type_.name == "decimal" and family == "postgresql"
        if numeric or type_.name in ("string", "char", "enum"):
            type_ = replace(type_, name="decimal" if numeric else "text", length=None, precision=None, scale=None)
    if source_engine == "postgresql" and type_.name == "uuid" and type_.native.upper() != "UUID":
        # The application has chosen not to use PostgreSQL's own type, nor will it another engine's.
        return sa.Uuid(native_uuid=False)
    return _generic_type(type_, dialect, key)


def _is_enum(type_: PortableType) -> bool:
    return type_.name == "enum" or (type_.items is not None and _is_enum(type_.items))


def _generic_type(type_: PortableType, dialect: Dialect, key: bool) -> TypeEngine[Any]:
    family = engine_family(dialect.name)
    mysql_ = family == "mysql"
    match type_.name:
        case "boolean":
            return sa.Boolean(create_constraint=False)
        case "int16":
            return sa.SmallInteger()
        case "int32":
            return sa.Integer()
        case "int64":
            return sa.BigInteger()
        case "uint64":
            if family == "sqlite":
                return NativeType("")
            return mysql.BIGINT(unsigned=True) if mysql_ else sa.Numeric(20, 0)
        case "float32" | "float64":
            return sa.Double()
        case "decimal":
            if mysql_ and not _is_mysql_decimal(type_, dialect):
                return _mysql_text(None, key)
            if family == "sqlite" and not 1 <= (type_.precision or 0) <= SQLITE_DIGITS:
                return NativeType("")
            return sa.Numeric(type_.precision, type_.scale)
        case "char" if type_.length:
            return sa.CHAR(type_.length)
        case "string" | "char" | "text" | "enum" | "native" | "interval" | "timetz":
            if mysql_:
                return _mysql_text(type_.length, key)
            return sa.String(type_.length) if type_.length else sa.Text()
        case "bytes":
            if mysql_:
                return sa.VARBINARY(type_.length or 255) if key else mysql.LONGBLOB()
            return sa.LargeBinary()
        case "date":
            return sa.Date()
        case "time":
            return mysql.TIME(fsp=6) if mysql_ else sa.Time()
        case "timestamp" | "timestamptz":
            return mysql.DATETIME(fsp=6) if mysql_ else sa.DateTime(timezone=type_.name == "timestamptz")
        case "uuid":
            return sa.Uuid()
        case "json" | "array":
            if family == "postgresql" and type_.name == "json":
                return postgresql.JSON()
            # Not JSON on SQLite, where a column of that name takes a document that is a number for a number.
            return mysql.LONGTEXT() if mysql_ else sa.Text()
    raise AssertionError(type_.name)


def _is_mysql_decimal(type_: PortableType, dialect: Dialect) -> bool:
    """Whether a DECIMAL of MariaDB or MySQL holds every value of the type."""
    most = 38 if getattr(dialect, "is_mariadb", False) else 30
    return (
        type_.precision is not None and type_.precision <= 65 and 0 <= (type_.scale or 0) <= min(most, type_.precision)
    )


def _mysql_text(length: int | None, key: bool) -> TypeEngine[Any]:
    if length and length <= 4096:
        return sa.String(length)
    # MariaDB indexes at most 3,072 bytes.
    return sa.String(255) if key else mysql.LONGTEXT()


class NativeType(sqltypes.UserDefinedType[Any]):
    """A type named by its DDL alone."""

    cache_ok = True

    def __init__(self, ddl: str) -> None:
        self.ddl = ddl

    def get_col_spec(self, **_: Any) -> str:
        return self.ddl
