"""Bring the values of row images into a form independent of the engine.

The form is a JSON value: equal values have equal JSON texts, and different values have different texts. Therefore the
hash of the text is a hash of the row.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from rowcast.shared.tables.shape import INTEGER_TYPES, PortableType

Canonical = Callable[[Any], Any]

_ZONE = re.compile(r"(Z|\+00(:00)?)$")
_PLAIN_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?").fullmatch


def canonical_form(type_: PortableType) -> Canonical | None:
    """Return the function for the canonical form of values of this portable type, or None if the value is the form.

    Never pass None to the function.
    """
    if type_.name == "array" and type_.items is not None:
        return _array(canonical_form(type_.items))
    return _FORMS.get(type_.name)


def _boolean(value: Any) -> Any:
    """Return a boolean, and leave further numbers alone. SQLite and MariaDB hold any number in boolean columns."""
    return bool(value) if value in (0, 1) else value


def _float64(value: Any) -> Any:
    try:
        number = float(value)
    except ValueError:
        return value  # SQLite may hold a text.
    # JSON has no NaN and no infinity. Adding 0.0 makes -0.0 equal to 0.0.
    return number + 0.0 if number - number == 0 else str(number)


def _float32(value: Any) -> Any:
    number = _float64(value)
    try:
        return struct.unpack("f", struct.pack("f", number))[0]
    except (OverflowError, struct.error):
        return number


def _integer(value: Any) -> Any:
    return value if type(value) is int else _decimal(value)


def _decimal(value: Any) -> Any:
    """Return an integer of 64 bits, or the shortest text of another number."""
    text = str(value)
    if _PLAIN_DECIMAL(text) is None:
        try:
            number = Decimal(text)
        except InvalidOperation:
            return value
        if not number.is_finite():
            return "NaN" if number.is_nan() else str(number)
        text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    # Longer integers would not fit into JSON's numbers here.
    return int(text) if len(text) < 19 and "." not in text else _long_number(text)


def _long_number(text: str) -> Any:
    if "." in text:
        return text
    number = int(text)
    return number if -(2**63) <= number < 2**64 else text


def _without_padding(value: Any) -> Any:
    return value.rstrip(" ")


def _moment(value: Any) -> Any:
    """Return a time or timestamp without zone, because the zone can only be UTC, and without trailing zeros."""
    text = str(value)
    if text[-1:] == "Z":
        text = text[:-1]
    elif "+" in text:
        text = _ZONE.sub("", text)
    if " " in text:
        text = text.replace(" ", "T")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _document(value: Any) -> Any:
    """Return a JSON document in a form that does not depend on white space or the order of members.

    Numbers stay exact. A document with a member twice is not equal to a document with the member once.
    """
    try:
        return _tagged(json.loads(value, parse_int=_Number, parse_float=_Number, object_pairs_hook=_Members))
    except (TypeError, ValueError):
        return ["t", value]


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object, in their order."""


class _Number(str):
    """A number of a document, as text."""


def _tagged(value: Any) -> Any:
    """Return a parsed document in which lists have a tag: ``o`` for objects, ``a`` for arrays, ``n`` for numbers."""
    if isinstance(value, _Members):
        return ["o", sorted(([name, _tagged(member)] for name, member in value), key=lambda pair: pair[0])]
    if isinstance(value, list):
        return ["a", [_tagged(item) for item in value]]
    return ["n", str(_decimal(value))] if isinstance(value, _Number) else value


def _array(element: Canonical | None) -> Canonical:
    def elements(value: Any) -> Any:
        if element is None:
            return value
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
    **dict.fromkeys(INTEGER_TYPES, _integer),
    "decimal": _decimal,
    "float32": _float32,
    "float64": _float64,
    "char": _without_padding,
    **dict.fromkeys(("time", "timetz", "timestamp", "timestamptz"), _moment),
    "uuid": str.lower,
    "json": _document,
}
