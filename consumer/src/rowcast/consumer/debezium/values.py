"""Decode the values of Debezium's messages to the texts and numbers of rowcast's events.

A decoder takes a JSON value other than null, and raises ValueError or TypeError for a value of a wrong form.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any

import orjson

from rowcast.shared.kafka.connect_values import date_text, decimal_text, time_text, timestamp_text

Decoder = Callable[[Any], Any]

# Debezium's numbers for PostgreSQL's infinite timestamps, in microseconds. In other units the numbers are cut.
_INFINITIES = {9223372036825200000: "infinity", -9223372036832400000: "-infinity"}
_INFINITE_DAYS = {2147483647: "infinity", -2147483648: "-infinity"}


@lru_cache(10_000)
def day(value: int) -> str:
    """Return the text of a number of days since 1970."""
    return _INFINITE_DAYS.get(value) or date_text(value)


def time_of_day(per_us: int, units: int, value: int) -> str:
    """Return the text of a time. A microsecond has ``per_us`` units, and a unit has ``units`` microseconds."""
    return time_text(_microseconds(per_us, units, value), 0)


def timestamp(per_us: int, units: int, value: int) -> str:
    """Return the text of a timestamp. The parameters are those of ``time_of_day``."""
    for infinite, text in _INFINITIES.items():
        if value == infinite * per_us or value * units == infinite:
            return text
    return timestamp_text(_microseconds(per_us, units, value), 0)


def duration(per_us: int, value: int) -> str:
    """Return an interval in ISO 8601. Debezium counts a month as a year's twelfth in a number."""
    seconds, fraction = divmod(abs(_microseconds(per_us, 1, value)), 1_000_000)
    text = f"{seconds}.{fraction:06}".rstrip("0").rstrip(".")
    return f"PT{'-' if value < 0 else ''}{text}S"


def _microseconds(per_us: int, units: int, value: int) -> int:
    if value % per_us:
        raise ValueError("a time has parts of a microsecond, and replicas hold microseconds")
    return value // per_us * units


MILLI, MICRO, NANO = (1, 1_000), (1, 1), (1_000, 1)
"""The units of numbers for times: units in a microsecond, and microseconds in a unit."""


def without_zone(value: str) -> str:
    """Return a date or time without the Z that Debezium adds to ISO texts of columns without a time zone."""
    return value.removesuffix("Z")


def variable_decimal(value: dict[str, Any]) -> str:
    """Return the text of a decimal with a scale of its own."""
    return decimal_text(value["value"], value["scale"])


def scaled_decimal(scale: int) -> Decoder:
    """Return the decoder of decimals with this scale."""
    return partial(decimal_text, scale=scale)


def number_text(value: float | str) -> str:
    """Return the text of a decimal sent as a floating point number."""
    return value if isinstance(value, str) else format(Decimal(repr(value)), "f")


def unsigned(value: int) -> int:
    """Return an unsigned integer of 64 bits, sent as a signed integer with equal bits."""
    return value % 2**64


def hex_bytes(value: str) -> str:
    """Return the base64 text of hexadecimal digits."""
    return base64.b64encode(bytes.fromhex(value)).decode()


def url_safe_bytes(value: str) -> str:
    """Return the base64 text of base64 in the alphabet of URLs."""
    return base64.b64encode(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))).decode()


def bit_text(length: int | None, value: str) -> str:
    """Return the bits as ``101``. Debezium writes the bytes from the lowest to the highest."""
    data = base64.b64decode(value, validate=True)
    return f"{int.from_bytes(data, 'little'):0{length or 8 * len(data)}b}"


def bit_number(value: str) -> str:
    """Return the bits as an unsigned number, as rowcast has them from MySQL."""
    return str(int.from_bytes(base64.b64decode(value, validate=True), "little"))


def document(value: Any) -> str:
    """Return the text of a JSON document, also for a structure or a map."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def array_of(decode: Decoder) -> Decoder:
    """Return the decoder of arrays from the decoder of elements."""
    return lambda values: [None if value is None else decode(value) for value in values]


def hex_element(value: str) -> str:
    r"""Return bytes in an array as ``\x00ff``, as rowcast's arrays have them."""
    return "\\x" + base64.b64decode(value, validate=True).hex()
