"""A message without schemas is read as the connector writes a column of the type under its modes."""

from __future__ import annotations

from typing import Any

import pytest

from rowcast.consumer.debezium.existing_tables import assumed_field
from rowcast.consumer.debezium.fields import read_field
from rowcast.shared.config.debezium_settings import DebeziumSettings
from rowcast.shared.tables.shape import ColumnShape, PortableType

MONEY = PortableType("decimal", precision=10, scale=2)
AT = PortableType("timestamp", native="TIMESTAMP WITHOUT TIME ZONE")
AT3 = PortableType("timestamp", native="TIMESTAMP(3) WITHOUT TIME ZONE")
CLOCK = PortableType("time", native="TIME(3)")
DAY, WAIT, DATA = PortableType("date"), PortableType("interval"), PortableType("bytes")


@pytest.mark.parametrize(
    ("type_", "modes", "value", "expected"),
    [
        (MONEY, {}, "BOI=", "12.50"),
        (PortableType("decimal"), {}, {"scale": 1, "value": "fQ=="}, "12.5"),
        (MONEY, {"decimal_handling_mode": "string"}, "12.50", "12.50"),
        (MONEY, {"decimal_handling_mode": "double"}, 12.5, "12.5"),
        (AT, {}, 1795255872123456, "2026-11-21T10:11:12.123456"),
        (AT3, {}, 1795255872123, "2026-11-21T10:11:12.123"),
        (AT, {"time_precision_mode": "connect"}, 1795255872123, "2026-11-21T10:11:12.123"),
        (AT3, {"time_precision_mode": "microseconds"}, 1795255872123000, "2026-11-21T10:11:12.123"),
        (AT, {"time_precision_mode": "nanoseconds"}, 1795255872123456000, "2026-11-21T10:11:12.123456"),
        (AT, {"time_precision_mode": "isostring"}, "2026-11-21T10:11:12Z", "2026-11-21T10:11:12"),
        (CLOCK, {}, 36672123, "10:11:12.123"),
        (CLOCK, {"time_precision_mode": "adaptive_time_microseconds"}, 36672123000, "10:11:12.123"),
        (DAY, {"time_precision_mode": "isostring"}, "2026-11-21Z", "2026-11-21"),
        (DAY, {"time_precision_mode": "microseconds"}, 20778, "2026-11-21"),
        (DAY, {"time_precision_mode": "connect"}, 20778, "2026-11-21"),
        (WAIT, {}, 1_000_000, "PT1S"),
        (WAIT, {"interval_handling_mode": "string"}, "P0Y1M0DT0H0M0S", "P0Y1M0DT0H0M0S"),
        (DATA, {}, "AP8=", "AP8="),
        (DATA, {"binary_handling_mode": "hex"}, "00ff", "AP8="),
        (PortableType("uint64"), {}, -1, 2**64 - 1),
        (PortableType("native", native="BIT(3)"), {}, "BQ==", "101"),
        (PortableType("array", items=DAY), {}, [20778, None], ["2026-11-21", None]),
        (PortableType("json"), {}, {"a": 1}, '{"a":1}'),
    ],
)
def test_a_value_is_read_by_type_and_mode(
    type_: PortableType, modes: dict[str, Any], value: Any, expected: Any
) -> None:
    settings = DebeziumSettings(**modes)
    form = read_field(assumed_field(ColumnShape("c", type_), settings, "postgresql"), settings, "postgresql")
    assert (value if form.decode is None else form.decode(value)) == expected


def test_mysqls_times_have_microseconds_and_its_datetimes_milliseconds() -> None:
    settings = DebeziumSettings()
    clock = read_field(assumed_field(ColumnShape("c", PortableType("time")), settings, "mysql"), settings, "mysql")
    at = read_field(assumed_field(ColumnShape("c", PortableType("timestamp")), settings, "mysql"), settings, "mysql")
    assert clock.decode is not None
    assert at.decode is not None
    assert clock.decode(36672000000) == "10:11:12"
    assert at.decode(1795255872000) == "2026-11-21T10:11:12"
