"""Return the capacity of a column of each type, for each engine. None stands for a type without a rule.

An engine refuses a wrong value of a type without a rule by an error, and does not change the value in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

from rowcast.consumer.replica.dialects import capacities
from rowcast.consumer.replica.dialects.capacities import (
    UNLIMITED_BINARY,
    UNLIMITED_NUMBERS,
    UNLIMITED_TEXTS,
    Arrays,
    Binary,
    Capacity,
    Flags,
    Floats,
    Intervals,
    Labels,
    Moments,
    Numbers,
    Texts,
    TypeName,
)

_Rule = Callable[[TypeName], Capacity]

_REAL, _DOUBLE = Floats(24), Floats(53)
_MAX_DIGITS = 6
_CENTS = Numbers(-(2**63) // 100, 2**63 // 100, 2)


def _always(capacity: Capacity) -> _Rule:
    return lambda _type: capacity


def _labels(type_: TypeName) -> Capacity:
    return Labels(frozenset(type_.labels))


def _moments(*, date: bool, time: bool, default: int = 0) -> _Rule:
    return lambda type_: Moments(date, time, type_.number(0, default))


def postgresql_capacity(column_type: str) -> Capacity | None:
    """Return what a column of a PostgreSQL type can hold."""
    type_ = capacities.parse_type(column_type)
    rule = _POSTGRESQL.get(type_.name)
    capacity = None if rule is None else rule(type_)
    return Arrays(capacity) if type_.is_array else capacity


def _postgresql_decimal(type_: TypeName) -> Capacity:
    return capacities.decimals(type_.numbers[0], type_.number(1, 0)) if type_.numbers else UNLIMITED_NUMBERS


def _postgresql_text(type_: TypeName) -> Capacity:
    return capacities.texts(type_.numbers[0]) if type_.numbers else UNLIMITED_TEXTS


def _postgresql_char(type_: TypeName) -> Capacity:
    return capacities.texts(type_.number(0, 1), padded=True)


def _postgresql_float(type_: TypeName) -> Capacity:
    return _REAL if type_.number(0, 53) <= _REAL.bits else _DOUBLE


def _postgresql_moments(*, date: bool) -> _Rule:
    return _moments(date=date, time=True, default=_MAX_DIGITS)


_POSTGRESQL: Mapping[str, _Rule] = {
    **dict.fromkeys(("smallint", "int2", "smallserial"), _always(capacities.integers(2))),
    **dict.fromkeys(("integer", "int", "int4", "serial"), _always(capacities.integers(4))),
    **dict.fromkeys(("bigint", "int8", "bigserial"), _always(capacities.integers(8))),
    **dict.fromkeys(("numeric", "decimal"), _postgresql_decimal),
    **dict.fromkeys(("real", "float4"), _always(_REAL)),
    **dict.fromkeys(("double precision", "float8"), _always(_DOUBLE)),
    "float": _postgresql_float,
    **dict.fromkeys(("boolean", "bool"), _always(Flags())),
    **dict.fromkeys(("character varying", "varchar"), _postgresql_text),
    **dict.fromkeys(("character", "char", "bpchar"), _postgresql_char),
    **dict.fromkeys(("text", "citext"), _always(UNLIMITED_TEXTS)),
    # A longer name is cut.
    "name": _always(Texts(63, 63)),
    '"char"': _always(Texts(1, 1)),
    "bytea": _always(UNLIMITED_BINARY),
    "date": _moments(date=True, time=False),
    **dict.fromkeys(("timestamp", "timestamp without time zone"), _postgresql_moments(date=True)),
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), _postgresql_moments(date=True)),
    **dict.fromkeys(("time", "time without time zone"), _postgresql_moments(date=False)),
    **dict.fromkeys(("timetz", "time with time zone"), _postgresql_moments(date=False)),
    "interval": lambda type_: Intervals(type_.number(0, _MAX_DIGITS)),
    # interval day to second and the like cut the other fields.
    **dict.fromkeys(
        ("interval year", "interval month", "interval day", "interval year to month", "interval day to hour")
        + ("interval day to minute", "interval hour to minute", "interval hour", "interval minute"),
        _always(Intervals(-1)),
    ),
    "money": _always(_CENTS),
    "enum": _labels,
}

_TEXT_OCTETS = {"tiny": 2**8 - 1, "": 2**16 - 1, "medium": 2**24 - 1, "long": 2**32 - 1}
_MYSQL_INTEGERS = {"tinyint": 1, "smallint": 2, "mediumint": 3, "int": 4, "integer": 4, "bigint": 8}
_MYSQL_PRECISION = 10


def mysql_capacity(column_type: str) -> Capacity | None:
    """Return what a column of a type of MariaDB or MySQL can hold."""
    type_ = capacities.parse_type(column_type)
    # Words of character sets and collations follow the name.
    first, *words = type_.name.split() or [""]
    if first in ("double", "character", "national", "char") and words[:1] in (["precision"], ["varying"]):
        first = "double" if first == "double" else "varchar"
    unsigned = "unsigned" in words or "zerofill" in words
    if first in _MYSQL_INTEGERS:
        return capacities.integers(_MYSQL_INTEGERS[first], unsigned=unsigned)
    if first in ("decimal", "numeric", "dec", "fixed"):
        return capacities.decimals(type_.number(0, _MYSQL_PRECISION), type_.number(1, 0), unsigned=unsigned)
    rule = _MYSQL.get(first)
    return None if rule is None else rule(type_)


def _mysql_float(type_: TypeName) -> Capacity:
    if len(type_.numbers) > 1:
        # FLOAT(10, 2) rounds like a decimal.
        return capacities.decimals(*type_.numbers[:2])
    is_double = type_.name.startswith(("double", "real")) or type_.number(0, 0) > _REAL.bits
    return _DOUBLE if is_double else _REAL


def _mysql_varchar(type_: TypeName) -> Capacity:
    return capacities.texts(type_.number(0, 1))


def _mysql_char(type_: TypeName) -> Capacity:
    return capacities.texts(type_.number(0, 1), padded=True)


def _mysql_text(octets: int) -> _Rule:
    # TEXT(n) is the smallest type for n characters.
    return lambda type_: Texts(type_.number(0, octets), type_.number(0, octets))


def _mysql_blob(octets: int) -> _Rule:
    return lambda type_: Binary(type_.number(0, octets))


_MYSQL: Mapping[str, _Rule] = {
    **dict.fromkeys(("bool", "boolean"), _always(Numbers(0, 1, 0))),
    "bit": lambda type_: Numbers(0, 2 ** type_.number(0, 1) - 1, 0),
    **dict.fromkeys(("float", "double", "real"), _mysql_float),
    **dict.fromkeys(("varchar", "nvarchar"), _mysql_varchar),
    **dict.fromkeys(("char", "nchar", "character", "national"), _mysql_char),
    **{f"{size}text": _mysql_text(octets) for size, octets in _TEXT_OCTETS.items()},
    **{f"{size}blob": _mysql_blob(octets) for size, octets in _TEXT_OCTETS.items()},
    "varbinary": lambda type_: Binary(type_.number(0, 1)),
    "binary": lambda type_: Binary(type_.number(0, 1), padded=True),
    "date": _moments(date=True, time=False),
    **dict.fromkeys(("datetime", "timestamp"), _moments(date=True, time=True)),
    "time": _moments(date=False, time=True),
    **dict.fromkeys(("enum", "set"), _labels),
}


def sqlite_capacity(column_type: str) -> Capacity | None:
    """Return what a column of SQLite gives back unchanged, by the affinity of the type."""
    name = column_type.lower()
    if "int" in name:
        return UNLIMITED_NUMBERS
    if any(word in name for word in ("char", "clob", "text")):
        return UNLIMITED_TEXTS
    if "blob" in name or name in ("", "json"):
        return None
    if any(word in name for word in ("real", "floa", "doub")):
        return _DOUBLE
    if any(word in name for word in ("date", "time")):
        return Moments(date=True, time=True, digits=inf)
    # A text that looks like a number becomes a number.
    return UNLIMITED_NUMBERS
