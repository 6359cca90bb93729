"""What a column is in Connect's words: its schema, and how a value of the outbox's becomes one of that schema.

The names are Debezium's, those of them that its JDBC sink knows (``docs/reference/json-schema.md``). Connect reads a
value that does not fit its schema as another one, 0 or NULL, without a word: so whatever an engine can hold against a
column's type is looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rowcast.shared import connect
from rowcast.shared.shapes import PortableType
from rowcast.shared.types import engine_family

Encoder = Callable[[Any], Any]
"""From the outbox's value, not null. Raises ValueError for what Connect has no form for."""


@dataclass(frozen=True, slots=True)
class ConnectType:
    """``schema`` lacks the field's name and whether it is optional. ``encode``: None, if the outbox's value is it.
    ``plain_unless_special``: it is, but for ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``."""

    schema: dict[str, Any]
    encode: Encoder | None = None
    plain_unless_special: bool = False


_NUMBERS = {
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "float32": "float",
    "float64": "double",
}
_NAMED_TEXTS = {
    "timestamptz": "io.debezium.time.ZonedTimestamp",
    "interval": "io.debezium.time.Interval",
    "uuid": "io.debezium.data.Uuid",
    "json": "io.debezium.data.Json",
}


def connect_type(type_: PortableType, engine: str) -> ConnectType:
    """``engine`` is the primary's."""
    sqlite = engine == "sqlite"
    match type_.name:
        case "boolean":
            # PostgreSQL's alone holds nothing else.
            return ConnectType({"type": "boolean"}, None if engine == "postgresql" else _boolean)
        case "int16" | "int32" | "int64":
            # SQLite's hold 64 bits, whatever they are called.
            return ConnectType({"type": "int64"}, _whole) if sqlite else ConnectType({"type": _NUMBERS[type_.name]})
        case "float32" | "float64":
            return ConnectType({"type": _NUMBERS[type_.name]}, _finite, not sqlite)
        case "uint64":
            return _decimal(20, 0, {connect.NUMBER: "true"})
        case "decimal" if type_.precision and not sqlite:
            return _decimal(type_.precision, max(type_.scale or 0, 0))
        case "decimal":
            fields = [_field("int32", "scale"), _field("bytes", "value")]
            schema = {"type": "struct", "fields": fields, "name": connect.VARIABLE_DECIMAL, "version": 1}
            return ConnectType(schema, connect.variable_decimal)
        case "date":
            return ConnectType(_named("int32", connect.DATE), connect.days)
        case "time":
            return ConnectType(_moment(connect.TIME, _time_digits(type_, engine)), connect.time_us)
        case "timestamp":
            return ConnectType(_moment(connect.TIMESTAMP, 0 if engine == "postgresql" else 6), connect.timestamp_us)
        case "array" if type_.items is not None:
            return _array(type_.items, engine)
        case "bytes":
            return ConnectType({"type": "bytes"}, _text if sqlite else None)
    schema = _named("string", _NAMED_TEXTS[type_.name]) if type_.name in _NAMED_TEXTS else {"type": "string"}
    return ConnectType(schema, _text if sqlite else None)


def _field(type_: str, name: str) -> dict[str, Any]:
    return {"type": type_, "optional": False, "field": name}


def _named(type_: str, name: str) -> dict[str, Any]:
    return {"type": type_, "name": name, "version": 1}


def _moment(name: str, digits: int) -> dict[str, Any]:
    schema = _named("int64", name)
    return schema | {"parameters": {connect.DIGITS: str(digits)}} if digits else schema


def _time_digits(type_: PortableType, engine: str) -> int:
    if engine_family(engine) == "mysql":
        found = re.search(r"\((\d)\)", type_.native)
        return int(found[1]) if found else 0
    return 6 if engine == "sqlite" else 0


def _decimal(precision: int, scale: int, more: dict[str, str] | None = None) -> ConnectType:
    parameters = {"scale": str(scale), "connect.decimal.precision": str(precision)}
    schema = _named("bytes", connect.DECIMAL) | {"parameters": parameters | (more or {})}
    return ConnectType(schema, lambda value: connect.unscaled(str(value), scale))


def _array(items: PortableType, engine: str) -> ConnectType:
    """The elements are as in the outbox: those for which Connect has another form are texts."""
    element = connect_type(items, engine)
    if (element.encode is not None and not element.plain_unless_special) or items.name == "bytes":
        element = ConnectType({"type": "string"})

    def one_dimension(value: Any) -> Any:
        if not isinstance(value, list) or any(isinstance(item, list) for item in value):
            raise ValueError("Connect's arrays have one dimension and count from 1")
        if element.encode is not None:
            return [None if item is None else element.encode(item) for item in value]
        return value

    return ConnectType({"type": "array", "items": element.schema | {"optional": True}}, one_dimension)


def _boolean(value: Any) -> Any:
    if type(value) is not bool:
        raise ValueError(f"{value!r} is no boolean")
    return value


def _whole(value: Any) -> Any:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"Connect's JSON has no form for the floating-point number {value!r}")
    return value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value
