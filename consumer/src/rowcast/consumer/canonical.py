"""Values of row images in one form for every engine, so that equal rows are equal.

What an engine cannot hold exactly is compared as far as it can: SQLite's numbers have 15 digits.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Collection
from decimal import Decimal
from typing import Any

from rowcast.shared.shapes import PortableType

Canonical = Callable[[Any], Any]

_ZONE = re.compile(r"(Z|\+00(:00)?)$")


def canonical_form(type_: PortableType, families: Collection[str]) -> Canonical:
    """The function that brings a value of this portable type, not null, into the form that all of the engine families
    involved can tell apart."""
    match type_.name:
        case "boolean":
            return bool
        case "int16" | "int32" | "int64" | "uint64":
            return int
        case "float64":
            return _double
        case "float32":
            return _single
        case "decimal":
            return _fifteen_digits if "sqlite" in families else _decimal
        case "char":
            return _unpadded
        case "time" | "timetz" | "timestamp" | "timestamptz":
            return _moment
        case "uuid":
            return str.lower
        case "json":
            return _document
        case "array" if type_.items is not None:
            return _array(canonical_form(type_.items, families))
    return _same


def _same(value: Any) -> Any:
    return value


def _double(value: Any) -> Any:
    number = float(value)
    # NaN equals nothing, not even itself.
    return number if number == number else "NaN"


def _single(value: Any) -> Any:
    number = float(value)
    if number != number:
        return "NaN"
    try:
        return struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        return number


def _decimal(value: Any) -> Any:
    number = Decimal(str(value))
    return "NaN" if number.is_nan() else number


def _fifteen_digits(value: Any) -> Any:
    number = float(value)
    return format(number, ".15g") if number == number else "NaN"


def _unpadded(value: Any) -> Any:
    return value.rstrip(" ")


def _moment(value: Any) -> Any:
    """Without a zone, which is UTC where there is one, and without zeros at the end of the fraction."""
    text = _ZONE.sub("", str(value)).replace(" ", "T")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _document(value: Any) -> Any:
    """Engines write the same document with other spaces, or its members in another order."""
    try:
        return json.dumps(json.loads(value), sort_keys=True)
    except (TypeError, ValueError):
        return value


def _array(element: Canonical) -> Canonical:
    def elements(value: Any) -> Any:
        items = json.loads(value) if isinstance(value, str) else value
        return [None if item is None else elements(item) if isinstance(item, list) else element(item) for item in items]

    return elements
