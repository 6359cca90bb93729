"""Map the type of a column to Kafka Connect: the schema of the field, and the conversion of the outbox's values.

The names are Debezium's, as far as Debezium's JDBC sink knows the names (``docs/reference/json-schema.md``). If a value
does not fit the schema, Connect reads 0 or NULL and reports no error. Each encoder therefore checks all values that the
engine can store in spite of the column's type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rowcast.producer.database.dialects import CaptureDialect, capture_dialect_named
from rowcast.shared.kafka import connect_values
from rowcast.shared.row_values import UnsuitableValueError, text_of
from rowcast.shared.tables.shape import PortableType

Encoder = Callable[[Any], Any]
"""Convert a value of the outbox that is not null. Raise ValueError if Connect has no form for the value."""


@dataclass(frozen=True, slots=True)
class ConnectType:
    """Hold the schema of a field, without its name and ``optional``, and the conversion of its values.

    ``encode``: None if the outbox's values have Connect's form. ``plain_unless_special``: all values but ``"NaN"``,
    ``"Infinity"`` and ``"-Infinity"`` have Connect's form.
    """

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
    """Return Connect's type of a column. ``engine``: the name of the primary's engine."""
    return _connect_type(type_, capture_dialect_named(engine))


def _connect_type(type_: PortableType, engine: CaptureDialect) -> ConnectType:
    build = _BUILDERS.get(type_.name, _text_type)
    return build(type_, engine)


def _boolean_type(_: PortableType, engine: CaptureDialect) -> ConnectType:
    # Without a boolean type, a column can hold other values.
    return ConnectType({"type": "boolean"}, None if engine.has_boolean else _boolean)


def _integer_type(type_: PortableType, engine: CaptureDialect) -> ConnectType:
    if not engine.enforces_types:
        # Without enforced types, a column of any integer type can hold 64 bits.
        return ConnectType({"type": "int64"}, _whole_number)
    return ConnectType({"type": _NUMBERS[type_.name]})


def _float_type(type_: PortableType, engine: CaptureDialect) -> ConnectType:
    return ConnectType({"type": _NUMBERS[type_.name]}, _finite, engine.enforces_types)


def _uint64_type(_: PortableType, engine: CaptureDialect) -> ConnectType:
    return _fixed_decimal(20, 0, {connect_values.NUMBER: "true"})


def _decimal_type(type_: PortableType, engine: CaptureDialect) -> ConnectType:
    if type_.precision and engine.enforces_types:
        return _fixed_decimal(type_.precision, max(type_.scale or 0, 0))
    fields = [_field("int32", "scale"), _field("bytes", "value")]
    schema = {"type": "struct", "fields": fields, "name": connect_values.VARIABLE_DECIMAL, "version": 1}
    return ConnectType(schema, connect_values.variable_decimal)


def _fixed_decimal(precision: int, scale: int, more: dict[str, str] | None = None) -> ConnectType:
    parameters = {"scale": str(scale), "connect.decimal.precision": str(precision)}
    schema = _named("bytes", connect_values.DECIMAL) | {"parameters": parameters | (more or {})}
    return ConnectType(schema, lambda value: connect_values.unscaled(str(value), scale))


def _date_type(_: PortableType, engine: CaptureDialect) -> ConnectType:
    return ConnectType(_named("int32", connect_values.DATE), connect_values.days)


def _time_type(type_: PortableType, engine: CaptureDialect) -> ConnectType:
    return ConnectType(_moment(connect_values.TIME, engine.time_digits(type_)), connect_values.time_us)


def _timestamp_type(_: PortableType, engine: CaptureDialect) -> ConnectType:
    return ConnectType(_moment(connect_values.TIMESTAMP, engine.timestamp_digits), connect_values.timestamp_us)


def _moment(name: str, digits: int) -> dict[str, Any]:
    schema = _named("int64", name)
    return schema | {"parameters": {connect_values.DIGITS: str(digits)}} if digits else schema


def _array_type(type_: PortableType, engine: CaptureDialect) -> ConnectType:
    """Return the type of an array. Elements stay as in the outbox, as texts if Connect has a different form."""
    if type_.items is None:
        return _text_type(type_, engine)
    element = _connect_type(type_.items, engine)
    if (element.encode is not None and not element.plain_unless_special) or type_.items.name == "bytes":
        element = ConnectType({"type": "string"})

    def encode(value: Any) -> Any:
        if not isinstance(value, list) or any(isinstance(item, list) for item in value):
            raise ValueError("Connect's arrays have one dimension and count from 1")
        if element.encode is not None:
            return [None if item is None else element.encode(item) for item in value]
        return value

    return ConnectType({"type": "array", "items": element.schema | {"optional": True}}, encode)


def _bytes_type(_: PortableType, engine: CaptureDialect) -> ConnectType:
    return ConnectType({"type": "bytes"}, None if engine.enforces_types else _text)


def _text_type(type_: PortableType, engine: CaptureDialect) -> ConnectType:
    schema = _named("string", _NAMED_TEXTS[type_.name]) if type_.name in _NAMED_TEXTS else {"type": "string"}
    return ConnectType(schema, None if engine.enforces_types else _text)


_BUILDERS: dict[str, Callable[[PortableType, CaptureDialect], ConnectType]] = {
    "boolean": _boolean_type,
    "int16": _integer_type,
    "int32": _integer_type,
    "int64": _integer_type,
    "uint64": _uint64_type,
    "float32": _float_type,
    "float64": _float_type,
    "decimal": _decimal_type,
    "date": _date_type,
    "time": _time_type,
    "timestamp": _timestamp_type,
    "array": _array_type,
    "bytes": _bytes_type,
}
"""All other types are texts in Connect."""


def _field(type_: str, name: str) -> dict[str, Any]:
    return {"type": type_, "optional": False, "field": name}


def _named(type_: str, name: str) -> dict[str, Any]:
    return {"type": type_, "name": name, "version": 1}


def _boolean(value: Any) -> Any:
    if type(value) is not bool:
        raise UnsuitableValueError(f"{text_of(value)} is not a boolean")
    return value


def _whole_number(value: Any) -> Any:
    if type(value) is not int:
        raise UnsuitableValueError(f"{text_of(value)} is not a whole number")
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, str):
        raise UnsuitableValueError(
            f"Connect's JSON has no form for {text_of(value, 'a special floating-point number')}"
        )
    return value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise UnsuitableValueError(f"{text_of(value)} is not text")
    return value
