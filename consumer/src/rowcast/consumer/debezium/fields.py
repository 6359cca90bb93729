"""Turn the fields of Connect's schemas into columns: the portable type, and the decoder of the values.

A field's schema says how Debezium writes the value. With ``column.propagate.source.type`` the field's parameters also
name the column's type, and then the modes of decimals and bytes say in which form the value comes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from rowcast.consumer.debezium import values
from rowcast.consumer.debezium.values import MICRO, MILLI, NANO, Decoder
from rowcast.shared.config.debezium_settings import DebeziumSettings
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import PortableType

Field = Mapping[str, Any]
"""The schema of a value, as Connect's JsonConverter writes it."""

_SOURCE = "__debezium.source.column."
# PostgreSQL's length of a column without a limit.
_NO_LENGTH = 2**31 - 1
# PostgreSQL declares at most this many digits. A column without a limit has a greater length.
_MOST_DIGITS = 1_000


_MOST_BITS = 64


class FieldForm(NamedTuple):
    """The column as described by a field. ``decode``: None if the value needs no change."""

    type: PortableType
    decode: Decoder | None = None


def read_field(field: Field, settings: DebeziumSettings, engine: str) -> FieldForm:
    """Return the form of a field. Raise DataError for an unknown type."""
    form = _logical(field, engine) or _propagated(field, settings) or _plain(field, settings, engine)
    if form is None:
        name = field.get("name") or field.get("type")
        raise DataError(
            f"column {field.get('field')} has the type {name}, which rowcast does not know. Leave the column out with "
            "the connector's column.exclude.list"
        )
    return form


def _logical(field: Field, engine: str) -> FieldForm | None:
    """Return the form of a field whose schema has a name."""
    make = _LOGICAL.get(str(field.get("name")))
    return None if make is None else make(field.get("parameters") or {}, engine)


def _native(engine: str, postgresql: str) -> str:
    # Only PostgreSQL has these types. The texts are constants, and no message becomes SQL.
    return postgresql if engine == "postgresql" else ""


_Maker = Callable[[Mapping[str, str], str], FieldForm]


def _fixed(name: str, decode: Decoder | None = None, native: str = "") -> _Maker:
    return lambda _parameters, engine: FieldForm(PortableType(name, native=_native(engine, native)), decode)


def _decimal(parameters: Mapping[str, str], _engine: str) -> FieldForm:
    scale = int(parameters["scale"])
    precision = int(parameters.get("connect.decimal.precision") or parameters.get(_SOURCE + "length") or 0)
    is_limited = 0 < precision <= _MOST_DIGITS
    type_ = PortableType("decimal", precision=precision if is_limited else None, scale=scale if is_limited else None)
    return FieldForm(type_, values.scaled_decimal(scale))


def _enum(parameters: Mapping[str, str], _engine: str) -> FieldForm:
    return FieldForm(PortableType("enum", values=tuple(filter(None, parameters.get("allowed", "").split(",")))))


def _bits(parameters: Mapping[str, str], engine: str) -> FieldForm:
    length = int(parameters.get("length", 0))
    if engine != "postgresql":
        # MySQL and MariaDB take bits for a number of at most 64 bits.
        native = f"BIT({length})" if 0 < length <= _MOST_BITS else ""
        return FieldForm(PortableType("native", native=native), values.bit_number)
    return FieldForm(PortableType("text"), partial(values.bit_text, length if length < _NO_LENGTH else None))


_TIMESTAMP, _TIME = "timestamp", "time"

_LOGICAL: Mapping[str, _Maker] = {
    "org.apache.kafka.connect.data.Decimal": _decimal,
    "org.apache.kafka.connect.data.Date": _fixed("date", values.day),
    "org.apache.kafka.connect.data.Time": _fixed(_TIME, partial(values.time_of_day, *MILLI)),
    "org.apache.kafka.connect.data.Timestamp": _fixed(_TIMESTAMP, partial(values.timestamp, *MILLI)),
    "io.debezium.data.VariableScaleDecimal": _fixed("decimal", values.variable_decimal),
    "io.debezium.time.Date": _fixed("date", values.day),
    "io.debezium.time.IsoDate": _fixed("date", values.without_zone),
    "io.debezium.time.Time": _fixed(_TIME, partial(values.time_of_day, *MILLI)),
    "io.debezium.time.MicroTime": _fixed(_TIME, partial(values.time_of_day, *MICRO)),
    "io.debezium.time.NanoTime": _fixed(_TIME, partial(values.time_of_day, *NANO)),
    "io.debezium.time.IsoTime": _fixed(_TIME, values.without_zone),
    "io.debezium.time.ZonedTime": _fixed("timetz", native="TIME WITH TIME ZONE"),
    "io.debezium.time.Timestamp": _fixed(_TIMESTAMP, partial(values.timestamp, *MILLI)),
    "io.debezium.time.MicroTimestamp": _fixed(_TIMESTAMP, partial(values.timestamp, *MICRO)),
    "io.debezium.time.NanoTimestamp": _fixed(_TIMESTAMP, partial(values.timestamp, *NANO)),
    "io.debezium.time.IsoTimestamp": _fixed(_TIMESTAMP, values.without_zone),
    "io.debezium.time.ZonedTimestamp": _fixed("timestamptz"),
    "io.debezium.time.MicroDuration": _fixed("interval", partial(values.duration, 1), "INTERVAL"),
    "io.debezium.time.NanoDuration": _fixed("interval", partial(values.duration, 1_000), "INTERVAL"),
    "io.debezium.time.Interval": _fixed("interval", native="INTERVAL"),
    "io.debezium.time.Year": _fixed("int32"),
    "io.debezium.data.Uuid": _fixed("uuid", native="UUID"),
    "io.debezium.data.Json": _fixed("json", values.document),
    "io.debezium.data.Enum": _enum,
    "io.debezium.data.EnumSet": _fixed("text"),
    "io.debezium.data.Bits": _bits,
    "io.debezium.data.Xml": _fixed("text"),
    "io.debezium.data.Ltree": _fixed("text"),
    "io.debezium.data.TsVector": _fixed("text"),
}


def _propagated(field: Field, settings: DebeziumSettings) -> FieldForm | None:
    """Return the form of a field from its named column type, if the type says more than the schema."""
    parameters = field.get("parameters") or {}
    source_type = parameters.get(_SOURCE + "type")
    if source_type is None:
        return None
    length, scale = parameters.get(_SOURCE + "length"), parameters.get(_SOURCE + "scale")
    words = re.sub(r"\(.*\)", "", source_type).upper().split()
    name = words[0] if words else ""
    # ZEROFILL implies UNSIGNED.
    if field["type"] == "int64" and name in _LARGE_INTEGERS and {"UNSIGNED", "ZEROFILL"} & set(words):
        return FieldForm(PortableType("uint64"), values.unsigned)
    if name in _DECIMALS and field["type"] in ("string", "double"):
        precision = int(length) if length and 0 < int(length) <= _MOST_DIGITS else None
        type_ = PortableType("decimal", precision=precision, scale=int(scale or 0) if precision else None)
        return FieldForm(type_, values.number_text)
    if field["type"] == "string" and name in _BYTES:
        return FieldForm(PortableType("bytes"), _bytes_decoder(field, settings))
    if field["type"] == "string" and name in _TEXTS and length and 0 < int(length) < _NO_LENGTH:
        return FieldForm(PortableType(_TEXTS[name], length=int(length)))
    return None


def _bytes_decoder(field: Field, settings: DebeziumSettings) -> Decoder | None:
    if settings.binary_handling_mode == "bytes":
        raise DataError(
            f"column {field.get('field')} holds bytes as a text. Set binary_handling_mode in [debezium] to the "
            "connector's binary.handling.mode"
        )
    return _BYTES_DECODERS[settings.binary_handling_mode]


_LARGE_INTEGERS = frozenset(("BIGINT", "INT8"))
_DECIMALS = frozenset(("NUMERIC", "DECIMAL", "MONEY"))
_BYTES = frozenset(("BYTEA", "BINARY", "VARBINARY", "BLOB", "TINYBLOB", "MEDIUMBLOB", "LONGBLOB"))
_TEXTS = {"VARCHAR": "string", "BPCHAR": "char", "CHAR": "char"}
_BYTES_DECODERS: Mapping[str, Decoder | None] = {
    "base64": None,
    "base64-url-safe": values.url_safe_bytes,
    "hex": values.hex_bytes,
}

_PLAIN: Mapping[str, str] = {
    "boolean": "boolean",
    "int8": "int16",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "float": "float32",
    "float32": "float32",
    "double": "float64",
    "float64": "float64",
    "string": "text",
    "bytes": "bytes",
}

_ARRAY_TYPES: Mapping[str, str] = {
    "boolean": "BOOLEAN[]",
    "int16": "SMALLINT[]",
    "int32": "INTEGER[]",
    "int64": "BIGINT[]",
    "float32": "REAL[]",
    "float64": "DOUBLE PRECISION[]",
    "decimal": "NUMERIC[]",
    "bytes": "BYTEA[]",
    "date": "DATE[]",
    "time": "TIME[]",
    "timetz": "TIME WITH TIME ZONE[]",
    "timestamp": "TIMESTAMP[]",
    "timestamptz": "TIMESTAMP WITH TIME ZONE[]",
    "interval": "INTERVAL[]",
    "uuid": "UUID[]",
}


def _plain(field: Field, settings: DebeziumSettings, engine: str) -> FieldForm | None:
    """Return the form of a field by Connect's own type."""
    kind = field.get("type")
    if kind == "array":
        return _array(read_field(field["items"], settings, engine), engine)
    if kind in ("struct", "map"):
        # A point, a geometry or an hstore. No text is lost, and the replica's own column may have any type for JSON.
        return FieldForm(PortableType("json"), values.document)
    name = _PLAIN.get(str(kind))
    return None if name is None else FieldForm(PortableType(name))


def _array(items: FieldForm, engine: str) -> FieldForm:
    decode = values.hex_element if items.type.name == "bytes" else items.decode
    native = _native(engine, _ARRAY_TYPES.get(items.type.name, "TEXT[]"))
    return FieldForm(
        PortableType("array", items=items.type, native=native), None if decode is None else values.array_of(decode)
    )
