"""Know which values an engine stores in a key exactly as they are sent, and how to read and bind all other keys.

A key that is not stored as sent must come from the database. Most types of SQLAlchemy would change such a key again on
its way to Python and back, for example a FLOAT or a DECIMAL read as a float.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable
from datetime import date, datetime, time
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.types import TypeDecorator, TypeEngine

from rowcast.shared.tables.shape import PortableType

_KINDS: dict[str, type[Any]] = {
    **dict.fromkeys(("int16", "int32", "int64", "uint64"), int),
    **dict.fromkeys(("string", "char", "text"), str),
    "boolean": bool,
    "bytes": bytes,
    "date": date,
    "time": time,
    "timestamp": datetime,
    "timestamptz": datetime,
}
_TEXTS = frozenset(("string", "char", "text", "enum"))
_INTEGERS = frozenset(("int16", "int32", "int64", "uint64"))
NO_LIMIT = "18446744073709551615"
"""The LIMIT on MariaDB and MySQL that overrides the session's sql_select_limit."""


class KeyDialect:
    """Describe the key columns of an engine. ``stored``: the type of the column without decorators."""

    catalogue: ClassVar[sa.TextClause | None] = None
    """A query for the tables of ``:schema`` whose triggers may change an inserted key, or whose collations fold texts.

    Columns: table, whether triggers may change a key, and whether the texts of the key fold. None: the models show all.
    """

    def exact_kind(self, stored: TypeEngine[Any], type_: PortableType) -> type[Any] | None:
        """Return the class of the Python values stored by the column exactly as sent, or None."""
        if isinstance(stored, sa.Enum):
            return stored.enum_class or str
        if isinstance(stored, sa.Uuid):
            return uuid.UUID if stored.as_uuid else str
        return _KINDS.get(type_.name)

    def exact_value(self, stored: TypeEngine[Any], type_: PortableType) -> Callable[[Any], bool] | None:
        """Return the function that says whether a value of the exact kind is stored as sent. None: every value is."""
        # Values with and without a zone, or with different zones, can be equal in the database or in Python alone.
        return has_no_zone if type_.name in ("time", "timestamp", "timestamptz") else None

    def folds(self, stored: TypeEngine[Any], type_: PortableType, *, exact: bool) -> bool:
        """Return whether the column can hold different values that the database takes for equal.

        ``exact``: the column has an exact kind.
        """
        return not exact

    def stored_type(self, stored: TypeEngine[Any], type_: PortableType) -> TypeEngine[Any]:
        """Return the type with which a key without an exact kind is read and bound, without any loss."""
        return stored

    def as_stored(
        self, value: sa.BindParameter[Any], stored: TypeEngine[Any], type_: PortableType
    ) -> ColumnElement[Any]:
        """Return the expression for a sent value as the column would store it."""
        return value

    def identity(self, value: ColumnElement[Any], type_: PortableType) -> ColumnElement[Any]:
        """Return an expression that differs for different values, although the database takes the values for equal."""
        return value


# PL/pgSQL: the beginning of a statement, and statements that give NEW, or the returned row, other values as a whole.
_BEGINS = r"(^|;|\n|\m(begin|then|else|loop)\M)\s*"
_REPLACES_NEW = rf"{_BEGINS}new\s*:?=|\minto\M[^;]*\mnew\M|\mreturn\M\s+(?!(new|old|null)\M)"


class PostgreSQLKeys(KeyDialect):
    """Read and bind as text the keys that are not exact, because any type can be read from its text."""

    catalogue = sa.text(rf"""
        SELECT relname, rewritten, rekeyed, folds FROM (
            SELECT c.relname, EXISTS (
                SELECT FROM pg_catalog.pg_trigger t
                WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
                -- BEFORE INSERT FOR EACH ROW
                AND t.tgtype & 7 = 7
            ) OR EXISTS (
                SELECT FROM pg_catalog.pg_rewrite w
                -- ON INSERT DO INSTEAD
                WHERE w.ev_class = c.oid AND w.is_instead AND w.ev_type = '3'
            ) AS rewritten, EXISTS (
                SELECT FROM pg_catalog.pg_trigger t
                JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
                JOIN pg_catalog.pg_language g ON g.oid = p.prolang
                JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
                JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
                WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
                -- BEFORE UPDATE FOR EACH ROW
                AND t.tgtype & 19 = 19
                -- The functions in C that databases share, such as moddatetime, change no key.
                AND g.lanname NOT IN ('c', 'internal') AND (
                    g.lanname <> 'plpgsql' OR p.prosrc ~* '{_REPLACES_NEW}'
                    OR p.prosrc ~* ('{_BEGINS}new\s*\.\s*"?' || regexp_replace(a.attname, '(\W)', '\\\1', 'g')
                                    || '"?\s*:?=')
                )
            ) AS rekeyed, EXISTS (
                SELECT FROM pg_catalog.pg_index i
                JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
                JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
                LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
                WHERE i.indrelid = c.oid AND i.indisprimary
                AND (NOT l.collisdeterministic OR 'citext' IN (y.typname, format_type(y.typbasetype, NULL)))
            ) AS folds
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p') AND n.nspname = :schema
        ) AS tables WHERE rewritten OR rekeyed OR folds""")

    def exact_kind(self, stored: TypeEngine[Any], type_: PortableType) -> type[Any] | None:
        if type_.name == "char" or getattr(stored, "precision", None) not in (None, 6):
            return None
        return super().exact_kind(stored, type_)

    def exact_value(self, stored: TypeEngine[Any], type_: PortableType) -> Callable[[Any], bool] | None:
        return has_zone if type_.name == "timestamptz" else super().exact_value(stored, type_)

    def stored_type(self, stored: TypeEngine[Any], type_: PortableType) -> TypeEngine[Any]:
        return PostgreSQLKeyText(stored, type_.name in ("date", "time", "timetz", "timestamp", "timestamptz"))

    def as_stored(
        self, value: sa.BindParameter[Any], stored: TypeEngine[Any], type_: PortableType
    ) -> ColumnElement[Any]:
        return sa.cast(value, stored)

    def identity(self, value: ColumnElement[Any], type_: PortableType) -> ColumnElement[Any]:
        return sa.cast(value, sa.Text).collate("C")


class MySQLKeys(KeyDialect):
    """Read most keys that are not exact as text, and numbers as numbers, because MySQL compares texts as doubles."""

    catalogue = sa.text(f"""
        SELECT event_object_table, TRUE AS rewritten, FALSE AS rekeyed, FALSE AS folds
        FROM information_schema.triggers
        WHERE action_timing = 'BEFORE' AND event_manipulation = 'INSERT' AND event_object_schema = :schema
        LIMIT {NO_LIMIT}""")

    def exact_kind(self, stored: TypeEngine[Any], type_: PortableType) -> type[Any] | None:
        if type_.name in ("time", "timestamp") and getattr(stored, "fsp", None) != 6:
            return None
        # A TIMESTAMP depends on the session's time zone, and the server fills BINARY with zeros.
        if isinstance(stored, sa.TIMESTAMP | sa.BINARY):
            return None
        if type_.name == "enum" and not getattr(stored, "enum_class", None):
            # ENUM stores the label that a collation takes for the sent text.
            return None
        return super().exact_kind(stored, type_)

    def exact_value(self, stored: TypeEngine[Any], type_: PortableType) -> Callable[[Any], bool] | None:
        return _has_no_padding if type_.name == "char" else super().exact_value(stored, type_)

    def folds(self, stored: TypeEngine[Any], type_: PortableType, *, exact: bool) -> bool:
        return type_.name in _TEXTS

    def stored_type(self, stored: TypeEngine[Any], type_: PortableType) -> TypeEngine[Any]:
        match type_.name:
            case "float32" | "float64":
                return MySQLKeyDouble()
            case "decimal":
                return sa.Numeric(type_.precision, type_.scale)
            case "bytes":
                return stored
            case "boolean" | "int16" | "int32" | "int64" | "uint64":
                return sa.BigInteger()
            case "native" if isinstance(stored, mysql.BIT):
                return MySQLKeyBits()
        return MySQLKeyText()

    def as_stored(
        self, value: sa.BindParameter[Any], stored: TypeEngine[Any], type_: PortableType
    ) -> ColumnElement[Any]:
        fsp = getattr(stored, "fsp", None)
        match type_.name:
            case "timestamp" | "timestamptz":
                return sa.cast(value, mysql.DATETIME(fsp=fsp))
            case "date":
                return sa.cast(value, sa.Date())
            case "time":
                return sa.cast(value, mysql.TIME(fsp=fsp))
            case "char":
                # The server removes trailing spaces, and not every collation ignores them.
                return sa.func.rtrim(value)
            case "decimal":
                return sa.cast(value, sa.Numeric(type_.precision, type_.scale))
            case "float32":
                return sa.cast(value, sa.Float())
            case name if name in _INTEGERS:
                # A cast to an integer would cut the fraction, and storing rounds it.
                return sa.cast(value, sa.Numeric(20, 0))
            case "native" if isinstance(stored, mysql.SET) and isinstance(value.value, set | frozenset):
                # The server puts the labels into the order of the type.
                return sa.literal(",".join(label for label in stored.values if label in value.value), sa.Text())
            case "bytes" if isinstance(stored, sa.BINARY):
                return sa.func.rpad(value, stored.length or 1, sa.literal_column("X'00'"))
        return value

    def identity(self, value: ColumnElement[Any], type_: PortableType) -> ColumnElement[Any]:
        text: ColumnElement[Any] = sa.cast(value, mysql.CHAR(charset="utf8mb4"))
        # The padding of a char does not count.
        return sa.cast(sa.func.rtrim(text) if type_.name == "char" else text, sa.BINARY)


class SQLiteKeys(KeyDialect):
    """Read and bind keys that are not exact as the driver has them, because a column can hold values of any type."""

    def exact_kind(self, stored: TypeEngine[Any], type_: PortableType) -> type[Any] | None:
        if isinstance(stored, sqlite.DATE | sqlite.TIME | sqlite.DATETIME) and _has_own_format(stored):
            # Digits alone become a number, because the column prefers numbers.
            return None
        return super().exact_kind(stored, type_)

    def folds(self, stored: TypeEngine[Any], type_: PortableType, *, exact: bool) -> bool:
        return not exact or (getattr(stored, "collation", None) or "BINARY").upper() != "BINARY"

    def stored_type(self, stored: TypeEngine[Any], type_: PortableType) -> TypeEngine[Any]:
        return sa.types.NullType()

    def identity(self, value: ColumnElement[Any], type_: PortableType) -> ColumnElement[Any]:
        # 3, 3.0 and '3' differ.
        return sa.func.quote(value)


class PostgreSQLKeyText(TypeDecorator[str]):
    """Read and bind a key as text. ``as_json``: read the text that does not depend on the session's DateStyle."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, stored: TypeEngine[Any], as_json: bool) -> None:
        super().__init__()
        self.stored = stored
        self.as_json = as_json

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        if self.as_json:
            return sa.func.to_json(column).op("#>>")(sa.literal_column("'{}'"))
        return sa.cast(column, sa.Text)

    def bind_expression(self, bindvalue: Any) -> ColumnElement[Any]:
        return sa.cast(bindvalue, self.stored)


class MySQLKeyText(TypeDecorator[str]):
    """Read a key as text."""

    impl = sa.Text
    cache_ok = True

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return sa.cast(column, mysql.CHAR(charset="utf8mb4"))


class MySQLKeyDouble(TypeDecorator[float]):
    """Read a key as DOUBLE, because the server writes a FLOAT with 6 digits."""

    impl = sa.Double
    cache_ok = True

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return sa.cast(column, sa.Double())


class MySQLKeyBits(TypeDecorator[int]):
    """Read a key of the type BIT as a number."""

    impl = sa.BigInteger
    cache_ok = True

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return sa.cast(column, mysql.INTEGER(unsigned=True))


def has_no_zone(value: Any) -> bool:
    """Return whether a time or timestamp has no time zone."""
    return value.tzinfo is None


def has_zone(value: Any) -> bool:
    """Return whether a timestamp has a time zone."""
    return value.tzinfo is not None


def _has_no_padding(value: Any) -> bool:
    return isinstance(value, enum.Enum) or not value.endswith(" ")


def _has_own_format(stored: Any) -> bool:
    return bool(stored._storage_format != type(stored)._storage_format)
