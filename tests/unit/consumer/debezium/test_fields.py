"""Every handling mode of a connector gives the texts and numbers of rowcast's own events."""

from __future__ import annotations

from typing import Any

import pytest

from rowcast.consumer.debezium.fields import read_field
from rowcast.shared.config.debezium_settings import DebeziumSettings
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import PortableType

CONNECT, DEBEZIUM = "org.apache.kafka.connect.data.", "io.debezium."


def field(kind: str, name: str | None = None, **parameters: str) -> dict[str, Any]:
    return {"type": kind, "name": name, "parameters": parameters, "field": "c", "optional": True}


def propagated(kind: str, source_type: str, name: str | None = None, **more: str) -> dict[str, Any]:
    parameters = {f"__debezium.source.column.{key}": value for key, value in {"type": source_type, **more}.items()}
    return field(kind, name, **parameters)


@pytest.mark.parametrize(
    ("described", "type_name", "value", "expected"),
    [
        # decimal.handling.mode
        (field("bytes", CONNECT + "Decimal", scale="2"), "decimal", "BOI=", "12.50"),
        (field("bytes", CONNECT + "Decimal", scale="0"), "decimal", "AP//////////", "18446744073709551615"),
        (
            field("struct", DEBEZIUM + "data.VariableScaleDecimal"),
            "decimal",
            {"scale": 5, "value": "cEiGDd95"},
            "1234567890.12345",
        ),
        (propagated("double", "NUMERIC", length="10", scale="2"), "decimal", 12.5, "12.5"),
        (propagated("double", "NUMERIC", length="0"), "decimal", 1e-7, "0.0000001"),
        (propagated("string", "DECIMAL(10,2)", length="10", scale="2"), "decimal", "-0.01", "-0.01"),
        (propagated("string", "NUMERIC", length="131089"), "decimal", "NaN", "NaN"),
        (field("double"), "float64", 0.1, 0.1),
        # bigint.unsigned.handling.mode
        (propagated("int64", "BIGINT UNSIGNED ZEROFILL"), "uint64", -1, 2**64 - 1),
        (propagated("int64", "BIGINT"), "int64", -1, -1),
        # time.precision.mode
        (field("int32", DEBEZIUM + "time.Date"), "date", 20778, "2026-11-21"),
        (field("int32", DEBEZIUM + "time.Date"), "date", -719163, "0001-12-31 BC"),
        (field("int32", DEBEZIUM + "time.Date"), "date", 2147483647, "infinity"),
        (field("int32", CONNECT + "Date"), "date", 0, "1970-01-01"),
        (field("string", DEBEZIUM + "time.IsoDate"), "date", "2026-11-21Z", "2026-11-21"),
        (field("int32", DEBEZIUM + "time.Time"), "time", 36672123, "10:11:12.123"),
        (field("int32", CONNECT + "Time"), "time", 0, "00:00:00"),
        (field("int64", DEBEZIUM + "time.MicroTime"), "time", 36672123456, "10:11:12.123456"),
        (field("int64", DEBEZIUM + "time.MicroTime"), "time", -3020399000000, "-838:59:59"),
        (field("int64", DEBEZIUM + "time.NanoTime"), "time", 36672123456000, "10:11:12.123456"),
        (field("string", DEBEZIUM + "time.IsoTime"), "time", "10:11:12.123Z", "10:11:12.123"),
        (field("string", DEBEZIUM + "time.ZonedTime"), "timetz", "08:11:12Z", "08:11:12Z"),
        (field("int64", DEBEZIUM + "time.Timestamp"), "timestamp", 1795255872123, "2026-11-21T10:11:12.123"),
        (field("int64", CONNECT + "Timestamp"), "timestamp", -1, "1969-12-31T23:59:59.999"),
        (field("int64", DEBEZIUM + "time.MicroTimestamp"), "timestamp", 1795255872123456, "2026-11-21T10:11:12.123456"),
        (field("int64", DEBEZIUM + "time.MicroTimestamp"), "timestamp", 9223372036825200000, "infinity"),
        (field("int64", DEBEZIUM + "time.Timestamp"), "timestamp", -9223372036832400, "-infinity"),
        (
            field("int64", DEBEZIUM + "time.NanoTimestamp"),
            "timestamp",
            1795255872123456000,
            "2026-11-21T10:11:12.123456",
        ),
        (
            field("string", DEBEZIUM + "time.IsoTimestamp"),
            "timestamp",
            "2026-11-21T10:11:12.123Z",
            "2026-11-21T10:11:12.123",
        ),
        (
            field("string", DEBEZIUM + "time.ZonedTimestamp"),
            "timestamptz",
            "2026-11-21T08:11:12Z",
            "2026-11-21T08:11:12Z",
        ),
        (field("int32", DEBEZIUM + "time.Year"), "int32", 2026, 2026),
        # interval.handling.mode
        (field("int64", DEBEZIUM + "time.MicroDuration"), "interval", 2813645500000, "PT2813645.5S"),
        (field("int64", DEBEZIUM + "time.MicroDuration"), "interval", -1, "PT-0.000001S"),
        (field("int64", DEBEZIUM + "time.NanoDuration"), "interval", 0, "PT0S"),
        (field("string", DEBEZIUM + "time.Interval"), "interval", "P0Y1M2DT3H4M5.5S", "P0Y1M2DT3H4M5.5S"),
        # Other types
        (field("bytes"), "bytes", "AP8=", "AP8="),
        (field("boolean"), "boolean", True, True),
        (field("int16"), "int16", -1, -1),
        (field("float"), "float32", "NaN", "NaN"),
        (field("bytes", DEBEZIUM + "data.Bits", length="3"), "text", "BQ==", "101"),
        (field("bytes", DEBEZIUM + "data.Bits", length="2147483647"), "text", "BQE=", "0000000100000101"),
        (field("string", DEBEZIUM + "data.Uuid"), "uuid", "8f14e45f-ceea", "8f14e45f-ceea"),
        (field("string", DEBEZIUM + "data.Json"), "json", '{"a": 1}', '{"a": 1}'),
        (field("struct", DEBEZIUM + "data.geometry.Point"), "json", {"x": 1.0, "y": None}, '{"x":1.0,"y":null}'),
        (field("map"), "json", {"a": None}, '{"a":null}'),
        (field("string", DEBEZIUM + "data.EnumSet", allowed="a,b"), "text", "a,b", "a,b"),
        ({**field("array"), "items": field("int32")}, "array", [1, None], [1, None]),
        ({**field("array"), "items": field("bytes")}, "array", ["AP8=", None], ["\\x00ff", None]),
        ({**field("array"), "items": field("int32", DEBEZIUM + "time.Date")}, "array", [0], ["1970-01-01"]),
    ],
)
def test_a_value_has_the_form_of_rowcasts_events(
    described: dict[str, Any], type_name: str, value: Any, expected: Any
) -> None:
    form = read_field(described, DebeziumSettings(), "postgresql")
    assert form.type.name == type_name
    assert (value if form.decode is None else form.decode(value)) == expected


@pytest.mark.parametrize(("mode", "value"), [("base64", "AP/+"), ("base64-url-safe", "AP_-"), ("hex", "00fffe")])
def test_bytes_as_texts_are_read_by_the_configured_mode(mode: Any, value: str) -> None:
    form = read_field(propagated("string", "BYTEA"), DebeziumSettings(binary_handling_mode=mode), "postgresql")
    assert form.type == PortableType("bytes")
    assert (value if form.decode is None else form.decode(value)) == "AP/+"


def test_bits_of_mysql_are_a_number() -> None:
    form = read_field(field("bytes", DEBEZIUM + "data.Bits", length="3"), DebeziumSettings(), "mysql")
    assert form.type == PortableType("native", native="BIT(3)")
    assert form.decode is not None
    assert form.decode("BQ==") == "5"


def test_bytes_as_texts_are_refused_without_a_mode() -> None:
    with pytest.raises(DataError, match="binary_handling_mode"):
        read_field(propagated("string", "BYTEA"), DebeziumSettings(), "postgresql")


def test_a_propagated_type_limits_the_column() -> None:
    settings = DebeziumSettings()
    named = read_field(propagated("string", "VARCHAR", length="20"), settings, "postgresql")
    precise = read_field(
        field("bytes", CONNECT + "Decimal", scale="2", **{"connect.decimal.precision": "9"}), settings, ""
    )
    unlimited = read_field(propagated("string", "TEXT", length="2147483647"), settings, "postgresql")
    assert named.type == PortableType("string", length=20)
    assert precise.type == PortableType("decimal", precision=9, scale=2)
    assert unlimited.type == PortableType("text")


def test_only_postgresql_gets_the_ddl_of_postgresql() -> None:
    array = {**field("array"), "items": field("string")}
    assert read_field(array, DebeziumSettings(), "postgresql").type.native == "TEXT[]"
    assert read_field(array, DebeziumSettings(), "mysql").type.native == ""


def test_a_time_finer_than_a_microsecond_is_refused() -> None:
    form = read_field(field("int64", DEBEZIUM + "time.NanoTime"), DebeziumSettings(), "postgresql")
    assert form.decode is not None
    with pytest.raises(ValueError, match="parts of a microsecond"):
        form.decode(1_001)


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="column c has the type never"):
        read_field(field("never"), DebeziumSettings(), "postgresql")
