"""Bring the values of row images into a form independent of the engine."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from rowcast.shared.tables.shape import PortableType

Canonical = Callable[[Any], Any]

_ZONE = re.compile(r"(Z|\+00(:00)?)$")


def canonical_form(type_: PortableType) -> Canonical:
    """Return the function for the canonical form of values of this portable type. Never pass None to the function."""
    if type_.name == "array" and type_.items is not None:
        return _array(canonical_form(type_.items))
    return _FORMS.get(type_.name, _same)


def _same(value: Any) -> Any:
    return value


def _boolean(value: Any) -> Any:
    """Return a boolean, and leave further numbers alone. SQLite and MariaDB hold any number in boolean columns."""
    return bool(value) if value in (0, 1) else value


def _float64(value: Any) -> Any:
    try:
        number = float(value)
    except ValueError:
        return value  # SQLite may hold a text.
    # NaN does not equal itself.
    return number if number == number else "NaN"


def _float32(value: Any) -> Any:
    number = _float64(value)
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


def _without_padding(value: Any) -> Any:
    return value.rstrip(" ")


def _moment(value: Any) -> Any:
    """Return a time or timestamp without zone, because the zone can only be UTC, and without trailing zeros."""
    text = _ZONE.sub("", str(value)).replace(" ", "T")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _document(value: Any) -> Any:
    """Return a JSON document in a form that does not depend on white space or the order of members.

    Numbers stay exact. A document with a member twice is not equal to a document with the member once.
    """
    try:
        return _tagged(json.loads(value, parse_int=Decimal, parse_float=Decimal, object_pairs_hook=_Members))
    except (TypeError, ValueError):
        return value


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object, in their order."""


def _tagged(value: Any) -> Any:
    """Return a parsed document with the type of each value, because Python takes true and 1 for equal."""
    if isinstance(value, _Members):
        return ("object", sorted(((name, _tagged(member)) for name, member in value), key=lambda pair: pair[0]))
    if isinstance(value, list):
        return ("array", [_tagged(item) for item in value])
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
        # An array that does not count from 1 is a text in PostgreSQL's form.
        return elements(items) if isinstance(items, list) else items

    return array


_FORMS: dict[str, Canonical] = {
    "boolean": _boolean,
    **dict.fromkeys(("int16", "int32", "int64", "uint64", "decimal"), _decimal),
    "float32": _float32,
    "float64": _float64,
    "char": _without_padding,
    **dict.fromkeys(("time", "timetz", "timestamp", "timestamptz"), _moment),
    "uuid": str.lower,
    "json": _document,
}
