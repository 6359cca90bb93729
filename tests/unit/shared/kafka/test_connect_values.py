"""Texts of the engines are converted to Connect's form and back without a change."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.consumer.events.connect_decoder import plain_message
from rowcast.producer.relay.messages.connect_schemas import table_frame
from rowcast.producer.relay.messages.connect_types import connect_type
from rowcast.shared.kafka import connect_values
from rowcast.shared.tables.shape import ColumnShape, PortableType, TableShape


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("1970-01-01", 0),
        ("1969-12-31", -1),
        ("2000-02-29", 11_016),
        ("9999-12-31", 2_932_896),
        ("10000-01-01", 2_932_897),
        ("0001-01-01", -719_162),
        ("0001-12-31 BC", -719_163),
        ("0044-03-15 BC", -735_160),
        ("5874897-12-31", 2_145_042_905),
    ],
)
def test_dates_are_days_since_1970(text: str, days: int) -> None:
    """The last five numbers come from PostgreSQL's ``date - date '1970-01-01'``."""
    assert connect_values.days(text) == days
    assert connect_values.date_text(days) == text


@pytest.mark.parametrize(
    ("text", "us", "digits"),
    [
        ("1970-01-01T00:00:00", 0, 0),
        ("1970-01-01T00:00:00.000000", 0, 6),
        ("2026-11-21T10:11:12.1", 1_795_255_872_100_000, 0),
        ("1969-12-31T23:59:59.999999", -1, 0),
        ("0044-03-15T10:00:00 BC", -63_517_788_000_000_000, 0),
    ],
)
def test_timestamps_are_microseconds_since_1970(text: str, us: int, digits: int) -> None:
    assert connect_values.timestamp_us(text) == us
    assert connect_values.timestamp_text(us, digits) == text


@pytest.mark.parametrize(
    ("text", "us", "digits"),
    [
        ("00:00:00", 0, 0),
        ("10:11:12.5", 36_672_500_000, 0),
        ("10:11:12.500", 36_672_500_000, 3),
        ("24:00:00", 86_400_000_000, 0),
        ("-838:59:59", -3_020_399_000_000, 0),
    ],
)
def test_times_are_microseconds_since_midnight(text: str, us: int, digits: int) -> None:
    assert connect_values.time_us(text) == us
    assert connect_values.time_text(us, digits) == text


@given(st.datetimes())
def test_every_timestamp_comes_back(value: Any) -> None:
    text = f"{value:%Y}".rjust(4, "0") + value.strftime("-%m-%dT%H:%M:%S.%f")
    assert connect_values.timestamp_text(connect_values.timestamp_us(text), 6) == text


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4))
def test_every_decimal_comes_back(value: Decimal) -> None:
    text = f"{value:f}".replace("-0.0000", "0.0000")
    assert connect_values.decimal_text(connect_values.unscaled(text, 4), 4) == text
    variable = connect_values.variable_decimal(text)
    assert connect_values.decimal_text(variable["value"], variable["scale"]) == text


@pytest.mark.parametrize(("text", "number"), [("1.28", b"\x00\x80"), ("-1.28", b"\x80"), ("0.00", b"\0"), ("1", b"d")])
def test_decimals_are_the_bytes_that_java_writes(text: str, number: bytes) -> None:
    """Java's BigInteger.toByteArray gives two's complement in the fewest bytes."""
    assert base64.b64decode(connect_values.unscaled(text, 2)) == number


@pytest.mark.parametrize(
    ("type_", "engine", "value"),
    [
        (PortableType("date"), "postgresql", "infinity"),
        (PortableType("date"), "mariadb", "0000-00-00"),
        (PortableType("timestamp"), "postgresql", "-infinity"),
        (PortableType("time"), "sqlite", "noon"),
        (PortableType("decimal", precision=5, scale=2), "postgresql", "NaN"),
        (PortableType("decimal", precision=19, scale=2), "postgresql", "0.125"),
        (PortableType("decimal"), "postgresql", "Infinity"),
        (PortableType("float64"), "postgresql", "NaN"),
        (PortableType("boolean"), "mariadb", 2),
        (PortableType("int32"), "sqlite", "seven"),
        (PortableType("int32"), "sqlite", 1.5),
        (PortableType("text"), "sqlite", 7),
        (PortableType("array", items=PortableType("int32")), "postgresql", [[1], [2]]),
        (PortableType("array", items=PortableType("int32")), "postgresql", "[0:1]={1,2}"),
        (PortableType("array", items=PortableType("float64")), "postgresql", [1.5, "NaN"]),
    ],
)
def test_what_connect_would_read_as_something_else_is_refused(type_: PortableType, engine: str, value: Any) -> None:
    encode = connect_type(type_, engine).encode
    assert encode is not None
    with pytest.raises(ValueError):
        encode(value)


ALL = [
    (PortableType("boolean"), True),
    (PortableType("int16"), -3),
    (PortableType("int64"), 2**63 - 1),
    (PortableType("uint64"), 2**64 - 1),
    (PortableType("float32"), 0.1),
    (PortableType("float64"), 1e300),
    (PortableType("decimal", precision=30, scale=2), "12345678901234567890.50"),
    (PortableType("decimal"), "-0.000000000000000000001"),
    (PortableType("string", length=5), "é\"'"),
    (PortableType("bytes"), "AAEC"),
    (PortableType("date"), "2026-11-21"),
    (PortableType("time"), "10:11:12.123456"),
    (PortableType("timestamp"), "2026-11-21T10:11:12.123456"),
    (PortableType("timestamptz"), "2026-11-21T10:11:12.123456Z"),
    (PortableType("interval"), "P1Y"),
    (PortableType("uuid"), "8f14e45f-ceea-467f-ab1e-27f3f1d2c0aa"),
    (PortableType("json"), '{"payload": 1}'),
    (PortableType("enum", values=("a",)), "a"),
    (PortableType("native"), "[1,2)"),
    (PortableType("array", items=PortableType("decimal")), ["1.5", None]),
]


@pytest.mark.parametrize("engine", ["postgresql", "mariadb", "sqlite"])
def test_a_row_of_every_type_comes_back_from_its_message(engine: str) -> None:
    """Some columns have the names of envelope members, because such names must not confuse the parser."""
    names = ["payload", "schema", "source", "after", *(f"c{n}" for n in range(len(ALL) - 4))]
    columns = tuple(ColumnShape(name, type_) for name, (type_, _) in zip(names, ALL, strict=True))
    shape = TableShape("public", "t", engine, columns, ("payload", "c3"))
    plain = {name: value for name, (_, value) in zip(names, ALL, strict=True)}
    encoded = {}
    for column in columns:
        encode = connect_type(column.type, engine).encode
        encoded[column.name] = plain[column.name] if encode is None else encode(plain[column.name])
    frame = table_frame(shape, "shop.public.t")
    source = {"schema": "public", "table": "t"}
    envelope = {"before": None, "after": encoded, "source": source, "op": "c"}
    key = {name: encoded[name] for name in shape.primary_key}

    found_key, found = plain_message(frame.key(orjson.dumps(key)), frame.value(orjson.dumps(envelope)))

    assert orjson.loads(found_key or b"") == {name: plain[name] for name in shape.primary_key}
    assert orjson.loads(found) == {**envelope, "after": plain}
