"""Say what a replica's column must hold for the values of a source's column."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rowcast.consumer.replica.dialects import capacities
from rowcast.consumer.replica.dialects.capacities import Capacity
from rowcast.shared.tables.shape import PortableType
from rowcast.shared.tables.type_mapping import MYSQL_FAMILY

_MAX_DIGITS = 6
_UUID_CHARACTERS = 32


def needed_capacity(type_: PortableType, source_engine: str, *, checks_values: bool) -> Capacity | None:
    """Return the necessary capacity of a column for the source's values, or None for a type without a rule.

    ``checks_values``: the worker refuses each value too long for a column of the engine.
    """
    if source_engine == "sqlite" and not checks_values and type_.name in _UNENFORCED:
        # SQLite enforces neither lengths nor digits.
        return _UNENFORCED[type_.name]
    if type_.name in _FIXED:
        return _FIXED[type_.name]
    match type_.name:
        case "decimal":
            is_limited = type_.precision is not None
            return capacities.decimals(type_.precision or 0, type_.scale or 0) if is_limited else _ANY_NUMBER
        case "string" | "char" if type_.length:
            return capacities.texts(type_.length, padded=type_.name == "char")
        case "enum" if type_.values:
            return capacities.Labels(frozenset(type_.values))
        case "bytes" if type_.length:
            return capacities.Binary(type_.length)
        case "time" | "timetz" | "timestamp" | "timestamptz":
            return capacities.Moments("stamp" in type_.name, True, _digits(type_, source_engine))
        case "interval":
            return capacities.Intervals(_digits(type_, source_engine))
        case "array" if type_.items is not None:
            return capacities.Arrays(needed_capacity(type_.items, source_engine, checks_values=checks_values))
    return _UNLIMITED.get(type_.name)


_ANY_NUMBER = capacities.UNLIMITED_NUMBERS
_ANY_TEXT = capacities.UNLIMITED_TEXTS

_FIXED: Mapping[str, Capacity] = {
    "boolean": capacities.Flags(),
    "int16": capacities.integers(2),
    "int32": capacities.integers(4),
    "int64": capacities.integers(8),
    "uint64": capacities.integers(8, unsigned=True),
    "float32": capacities.Floats(24),
    "float64": capacities.Floats(53),
    "date": capacities.Moments(True, False, 0),
    "uuid": capacities.Texts(_UUID_CHARACTERS, _UUID_CHARACTERS, padded=True),
}
_UNENFORCED: Mapping[str, Capacity] = {"decimal": _ANY_NUMBER, "string": _ANY_TEXT, "char": _ANY_TEXT}
_UNLIMITED: Mapping[str, Capacity] = {
    **dict.fromkeys(("string", "char", "text", "enum"), _ANY_TEXT),
    "bytes": capacities.UNLIMITED_BINARY,
}


def _digits(type_: PortableType, source_engine: str) -> int:
    """Return the digits of a second. Without a number, return 0 for MySQL, and 6 elsewhere."""
    match = re.search(r"\((\d+)\)", type_.native)
    default = 0 if source_engine in MYSQL_FAMILY and type_.native else _MAX_DIGITS
    return int(match[1]) if match else default
