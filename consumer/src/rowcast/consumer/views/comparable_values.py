"""Turn the JSON values of a row image into values for conditions, by the portable type of the column."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from rowcast.consumer.views.syntax import ConditionError, Value
from rowcast.shared.tables.shape import INTEGER_TYPES

Kind = str
"""The columns of one kind are comparable with each other."""

Reader = Callable[[Any], Any]
"""Turn a JSON value, never None, into a comparable value. Raise ValueError for a value of another type."""

_KINDS: dict[str, Kind] = {
    "boolean": "boolean",
    **dict.fromkeys(INTEGER_TYPES, "number"),
    "decimal": "number",
    **dict.fromkeys(("float32", "float64"), "float"),
    **dict.fromkeys(("string", "text", "char", "enum"), "text"),
    **dict.fromkeys(("uuid", "date", "timestamp", "timestamptz"), ""),
}
ORDERED = frozenset(("number", "float", "date", "timestamp", "timestamptz"))
"""The kinds with an order. Texts have none, because each collation orders them in another way."""

_ENDS = {"infinity": True, "-infinity": False}


def kind_of(type_name: str) -> Kind | None:
    """Return the kind of a portable type, or None if values of the type are not comparable."""
    kind = _KINDS.get(type_name)
    return type_name if kind == "" else kind


def reader_of(type_name: str) -> Reader:
    """Return the reader for values of a comparable type."""
    return _without_padding if type_name == "char" else _READERS[kind_of(type_name) or ""]


def literal_of(value: Value, type_name: str) -> Any:
    """Return a literal in the form of a column's values. Raise ConditionError for a literal of a wrong type."""
    kind, literal = kind_of(type_name), value.value
    wanted: type = {"boolean": bool, "number": Decimal, "float": Decimal}.get(kind or "", str)
    if type(literal) is not wanted:
        raise ConditionError(f"a column of type {type_name} is compared with {_NAMES[wanted]}, and not {literal!s}")
    try:
        return reader_of(type_name)(literal)
    except ValueError:
        raise ConditionError(f"{literal!r} is no {type_name}. Write it in the form of ISO 8601") from None


_NAMES: dict[type, str] = {bool: "true or false", Decimal: "a number", str: "a text in single quotes"}


def _boolean(value: Any) -> bool:
    # SQLite and MySQL store a number.
    if value is True or value is False or value in (0, 1):
        return bool(value)
    raise ValueError("no boolean")


def _number(value: Any) -> tuple[bool, Any]:
    """Return a number as PostgreSQL orders it: NaN equals NaN, and is greater than every other number."""
    if type(value) is int:
        return False, value
    try:
        number = Decimal(str(value) if type(value) is float else value)
    except (InvalidOperation, TypeError):
        raise ValueError("no number") from None
    return (True, 0) if number.is_nan() else (False, number)


def _float(value: Any) -> tuple[bool, float]:
    try:
        number = float(value)
    except TypeError:
        raise ValueError("no number") from None
    return (True, 0.0) if number != number else (False, number)


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    raise ValueError("no text")


def _without_padding(value: Any) -> str:
    return _text(value).rstrip(" ")


def _uuid(value: Any) -> str:
    return _text(value).lower()


def _date(value: Any) -> date:
    text = _text(value)
    if text in _ENDS:
        return date.max if _ENDS[text] else date.min
    return date.fromisoformat(text)


def _timestamp(value: Any) -> datetime:
    return _moment(value).replace(tzinfo=None)


def _timestamptz(value: Any) -> datetime:
    moment = _moment(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _moment(value: Any) -> datetime:
    text = _text(value)
    if text in _ENDS:
        return datetime.max if _ENDS[text] else datetime.min
    return datetime.fromisoformat(text)


_READERS: dict[str, Reader] = {
    "boolean": _boolean,
    "number": _number,
    "float": _float,
    "text": _text,
    "uuid": _uuid,
    "date": _date,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
}
