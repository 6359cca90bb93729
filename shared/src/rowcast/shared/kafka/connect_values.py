"""Convert values between the texts of the plain format and the forms of Kafka Connect's and Debezium's schemas.

Only types whose forms differ are here. ``docs/reference/json-schema.md`` lists all types. The functions into Connect's
form raise ValueError for a value without a form in Connect.
"""

from __future__ import annotations

import base64
import re
from datetime import date
from typing import Any

from rowcast.shared.row_values import UnsuitableValueError, text_of

DATE = "io.debezium.time.Date"
TIME = "io.debezium.time.MicroTime"
TIMESTAMP = "io.debezium.time.MicroTimestamp"
DECIMAL = "org.apache.kafka.connect.data.Decimal"
VARIABLE_DECIMAL = "io.debezium.data.VariableScaleDecimal"

DIGITS = "rowcast.digits"
"""Parameter of TIME and TIMESTAMP: the digits of the fraction in the plain format, with trailing zeros. Without the
parameter, the plain format has no trailing zeros."""

NUMBER = "rowcast.number"
"""Parameter of DECIMAL: the plain format has a number in place of a text."""

_DAY_US = 24 * 3600 * 1_000_000
_DATE = re.compile(r"(\d{4,7})-(\d\d)-(\d\d)( BC)?", re.ASCII)
_TIME = re.compile(r"(-?)(\d{2,3}):([0-5]\d):([0-5]\d)(?:\.(\d{1,6}))?", re.ASCII)
_TIMESTAMP = re.compile(r"(\d{4,7}-\d\d-\d\d)T(\d\d:\d\d:\d\d(?:\.\d{1,6})?)( BC)?", re.ASCII)
_DECIMAL = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([-+]?\d{1,3}))?", re.ASCII)

# The calendar repeats after 400 years. Python's has no year before 1 or after 9999.
_CYCLE_YEARS, _CYCLE_DAYS = 400, 146_097
_EPOCH = date(1970, 1, 1).toordinal()


def days(text: str) -> int:
    """Return the days since 1970 of a date such as ``2026-11-21`` or ``0044-03-15 BC``."""
    found = _matched(_DATE, text, "date")
    year = 1 - int(found[1]) if found[4] else int(found[1])
    cycles, year = divmod(year - 1, _CYCLE_YEARS)
    return date(year + 1, int(found[2]), int(found[3])).toordinal() - _EPOCH + cycles * _CYCLE_DAYS


def date_text(days_: int) -> str:
    """Return the text of a date. The inverse of ``days``."""
    cycles, rest = divmod(days_ + _EPOCH - 1, _CYCLE_DAYS)
    day = date.fromordinal(rest + 1)
    year = day.year + cycles * _CYCLE_YEARS
    return f"{year if year > 0 else 1 - year:04}-{day:%m-%d}{'' if year > 0 else ' BC'}"


def time_us(text: str) -> int:
    """Return the microseconds since midnight of a time such as ``10:11:12.123456`` or ``-838:59:59``."""
    found = _matched(_TIME, text, "time")
    us = ((int(found[2]) * 60 + int(found[3])) * 60 + int(found[4])) * 1_000_000 + int(f"{found[5] or '':0<6}")
    return -us if found[1] else us


def time_text(us: int, digits: int) -> str:
    """Return the text of a time. The inverse of ``time_us``. ``digits``: see DIGITS."""
    seconds, fraction = divmod(abs(us), 1_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{fraction:06}".rstrip("0").ljust(digits, "0")
    return f"{'-' if us < 0 else ''}{hours:02}:{minutes:02}:{seconds:02}{'.' if text else ''}{text}"


def timestamp_us(text: str) -> int:
    """Return the microseconds since 1970 of a text such as ``2026-11-21T10:11:12`` or ``0044-03-15T10:00:00 BC``."""
    found = _matched(_TIMESTAMP, text, "timestamp")
    return days(found[1] + (found[3] or "")) * _DAY_US + time_us(found[2])


def timestamp_text(us: int, digits: int) -> str:
    """Return the text of a timestamp. The inverse of ``timestamp_us``. ``digits``: see DIGITS."""
    days_, of_day = divmod(us, _DAY_US)
    day, era, _ = date_text(days_).partition(" BC")
    return f"{day}T{time_text(of_day, digits)}{era}"


def unscaled(text: str, scale: int) -> str:
    """Return the base64 text of a decimal without the point: for ``12.50`` with scale 2, the bytes of 1250."""
    digits, own_scale = _digits(text)
    if own_scale > scale:
        if digits % 10 ** (own_scale - scale):
            raise UnsuitableValueError(f"{text_of(text)} has more than {scale} digits after the point")
        return _encoded(digits // 10 ** (own_scale - scale))
    return _encoded(digits * 10 ** (scale - own_scale))


def variable_decimal(text: str) -> dict[str, Any]:
    """Return the scale and the base64 text of a decimal: for ``12.50``, 2 and the bytes of 1250."""
    digits, scale = _digits(text)
    return {"scale": scale, "value": _encoded(digits)}


def decimal_text(value: str, scale: int) -> str:
    """Return the text of a decimal. The inverse of ``unscaled``."""
    number = int.from_bytes(base64.b64decode(value, validate=True), "big", signed=True)
    if scale < 0:
        number, scale = number * 10**-scale, 0
    digits = f"{abs(number):0{scale + 1}}"
    whole = digits[: len(digits) - scale]
    return f"{'-' if number < 0 else ''}{whole}{'.' if scale else ''}{digits[len(whole) :]}"


def _digits(text: str) -> tuple[int, int]:
    """Return the number without the point, and the count of digits after the point."""
    sign, whole, fraction, exponent = _matched(_DECIMAL, text, "decimal").groups(default="")
    return int(sign + whole + fraction), len(fraction) - int(exponent or 0)


def _encoded(number: int) -> str:
    size = (number if number >= 0 else ~number).bit_length() // 8 + 1
    return base64.b64encode(number.to_bytes(size, "big", signed=True)).decode()


def _matched(form: re.Pattern[str], text: Any, what: str) -> re.Match[str]:
    found = form.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise UnsuitableValueError(f"{text_of(text)} is no {what} that Connect's schemas can represent")
    return found
