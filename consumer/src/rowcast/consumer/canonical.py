"""Values of row images in one form for every engine, so that equal rows are equal."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from rowcast.shared.shapes import PortableType

Canonical = Callable[[Any], Any]

_ZONE = re.compile(r"(Z|\+00(:00)?)$")


def canonical_form(type_: PortableType) -> Canonical:
    """The function that brings a value of this portable type, not null, into the form that every engine has for it."""
    match type_.name:
        case "boolean":
            return _boolean
        case "int16" | "int32" | "int64" | "uint64" | "decimal":
            return _decimal
        case "float64":
            return _double
        case "float32":
            return _single
        case "char":
            return _unpadded
        case "time" | "timetz" | "timestamp" | "timestamptz":
            return _moment
        case "uuid":
            return str.lower
        case "json":
            return _document
        case "array" if type_.items is not None:
            return _array(canonical_form(type_.items))
    return _same


def _same(value: Any) -> Any:
    return value


def _boolean(value: Any) -> Any:
    """SQLite and MariaDB hold other numbers too; those are no booleans."""
    return bool(value) if value in (0, 1) else value


def _double(value: Any) -> Any:
    try:
        number = float(value)
    except ValueError:
        return value  # SQLite holds texts too
    # NaN equals nothing, not even itself.
    return number if number == number else "NaN"


def _single(value: Any) -> Any:
    number = _double(value)
    try:
        return struct.unpack("f", struct.pack("f", number))[0]
    except (OverflowError, struct.error):
        return number


def _decimal(value: Any) -> Any:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return value
    return "NaN" if number.is_nan() else number


def _unpadded(value: Any) -> Any:
    return value.rstrip(" ")


def _moment(value: Any) -> Any:
    """Without a zone, which is UTC where there is one, and without zeros at the end of the fraction."""
    text = _ZONE.sub("", str(value)).replace(" ", "T")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _document(value: Any) -> Any:
    """Engines write the same document with other spaces, or its members in another order; numbers are exact, and a
    member that is there twice is not the same as once."""
    try:
        return _members(json.loads(value, parse_int=Decimal, parse_float=Decimal, object_pairs_hook=_Members))
    except (TypeError, ValueError):
        return value


class _Members(list[tuple[str, Any]]):
    """Of a JSON object, as they came."""


def _members(value: Any) -> Any:
    """A parsed document in a form that is equal only to the same document: Python holds true for 1."""
    if isinstance(value, _Members):
        return ("object", sorted(((name, _members(member)) for name, member in value), key=lambda pair: pair[0]))
    if isinstance(value, list):
        return ("array", [_members(item) for item in value])
    return (type(value).__name__, value)


def _array(element: Canonical) -> Canonical:
    def elements(value: Any) -> Any:
        return [None if item is None else elements(item) if isinstance(item, list) else element(item) for item in value]

    def array(value: Any) -> Any:
        items = value
        if isinstance(value, str):
            try:
                items = json.loads(value)
            except ValueError:
                return value
        # One that does not count from 1 is a text of PostgreSQL's.
        return elements(items) if isinstance(items, list) else items

    return array
