"""Convert the contract's encodings to the stored values of SQLAlchemy's generic types on SQLite and MariaDB.

A converter takes a JSON value other than null, and raises ValueError for an unsupported value, because no value may
silently become NULL or a different value.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from rowcast.shared.row_values import UnsuitableValueError, text_of, value_error
from rowcast.shared.tables.shape import PortableType
from rowcast.shared.tables.type_mapping import SQLITE_DIGITS

Converter = Callable[[Any], Any]

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?Z?")
_TIME = re.compile(r"((?:[01]\d|2[0-3]):\d\d:\d\d)(?:\.(\d{1,6}))?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_DECIMAL = re.compile(r"-?(\d+)\.?(\d*)", re.ASCII)
_NUMBER = re.compile(r"-?(\d+(\.\d+)?([eE][-+]?\d+)?|Infinity)", re.ASCII)
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_MAX_INT64_CHARACTERS = 20
# A text of fifteen digits, with zeros before or after up to the maximal length, is far from the limits of a float.
_MAX_FLOAT_CHARACTERS = 300


class RowReader:
    """Make a statement's parameters from images or keys: the named members, in order, each converted."""

    def __init__(self, members: Sequence[tuple[str, Converter | None]]) -> None:
        self._members = tuple(members)

    def rows(self, documents: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        """Return the parameters for each document.

        Raise ValueError with the name of the column for a value that the engine cannot hold.
        """
        members = self._members
        for document in documents:
            row = orjson.loads(document)
            values = []
            name = ""
            try:
                for name, convert in members:
                    value = row[name]
                    values.append(value if convert is None or value is None else convert(value))
            except (ValueError, TypeError, AttributeError) as error:
                raise UnsuitableValueError(f"column {name}: {value_error(error)}") from error
            yield tuple(values)


def decode_base64(value: str) -> bytes:
    """Return the bytes of a base64 text."""
    return base64.b64decode(value, validate=True)


def array_text(value: Any) -> str:
    """Return an array as JSON text, for engines without arrays."""
    return orjson.dumps(value).decode()


def is_hex_uuid(portable: PortableType, column_type: str) -> bool:
    """Return whether the column stores a UUID as 32 hex digits, as SQLAlchemy's Uuid does without a native type."""
    return portable.name == "uuid" and column_type.startswith(("char", "varchar")) and type_length(column_type) == 32


def hex_uuid(value: str) -> str:
    """Return a UUID as 32 hex digits."""
    return value.replace("-", "")


def require_finite(value: Any) -> Any:
    """Return a number. Raise ValueError for NaN and infinities, for an engine that has neither."""
    if isinstance(value, str) and value[-1:] in ("N", "y"):
        raise UnsuitableValueError(f"{text_of(value)} cannot be held by this engine")
    return value


def require_scale(scale: int) -> Converter:
    """Return a converter that refuses infinite decimals and decimals with more than ``scale`` digits after the point.

    The engine would silently round the decimal.
    """

    def convert(value: Any) -> Any:
        fraction = str(require_finite(value)).partition(".")[2]
        if len(fraction) > scale and fraction.rstrip("0")[scale:]:
            raise UnsuitableValueError(
                f"{text_of(value)} has more than {scale} digits after the point, which this column would round"
            )
        return value

    return convert


def require_digits(digits: int, convert: Converter | None) -> Converter:
    """Return a converter to refuse times with more than ``digits`` digits of a second.

    The engine would silently round the time. ``convert``: the further conversion, or None.
    """

    def refuse_or_convert(value: Any) -> Any:
        fraction = str(value).removesuffix("Z").partition(".")[2]
        if fraction.rstrip("0")[digits:]:
            raise UnsuitableValueError(
                f"the time has more than {digits} digits of a second, which this column would round"
            )
        return value if convert is None else convert(value)

    return refuse_or_convert


def strip_padding(value: str) -> str:
    """Return a char without padding."""
    return value.rstrip(" ")


def require_length(length: int) -> Converter:
    """Return a converter that refuses texts of more than ``length`` characters.

    The engine would silently cut spaces off the end.
    """

    def convert(value: Any) -> Any:
        if len(value) > length:
            raise UnsuitableValueError(f"a text of {len(value)} characters does not fit: the column holds {length}")
        return value

    return convert


def sqlite_float(value: Any) -> Any:
    """Return a float. Raise ValueError for NaN, which SQLite would store as NULL. SQLite holds infinities."""
    if value == "NaN":
        raise UnsuitableValueError("NaN cannot be held by this engine")
    return float(value)


def sqlite_number_or_text(value: Any) -> int | float | str:
    """Return a decimal or an unsigned integer as a number if SQLite holds it exactly, else as text."""
    text = str(value)
    if (number := _int64(text)) is not None:
        return number
    match = _DECIMAL.fullmatch(text)
    if match is None:
        return text
    digits = (match[1] + match[2]).strip("0")
    return float(text) if len(digits) <= SQLITE_DIGITS and len(text) < _MAX_FLOAT_CHARACTERS else text


def sqlite_exact_number(value: Any) -> int | float:
    """Return a number for a column that would turn a text into a rounded number.

    Raise ValueError if SQLite cannot hold the number exactly.
    """
    number = sqlite_number_or_text(value)
    if isinstance(number, str):
        raise UnsuitableValueError(
            f"{text_of(value)} cannot be held exactly by this engine's numbers. Give the column no type, or TEXT"
        )
    return number


def sqlite_own_number(value: Any) -> int | float | str:
    """Return a value from another SQLite database, where the value was a number with any number of digits."""
    text = str(value)
    if (number := _int64(text)) is not None:
        return number
    return float(text) if _NUMBER.fullmatch(text) else text


def _int64(text: str) -> int | None:
    """Return a signed integer of 64 bits, with or without zeros after the point, or None for another text."""
    whole, _, fraction = text.partition(".")
    if fraction.strip("0") or not whole.lstrip("-").isdecimal() or len(whole) > _MAX_INT64_CHARACTERS:
        return None
    number = int(whole)
    return number if _INT64_MIN <= number <= _INT64_MAX else None


def timestamp_text(value: str) -> str:
    """Return ``2026-11-21 10:11:12.123456``, in UTC if the source had a time zone."""
    match = _TIMESTAMP.fullmatch(value)
    if match is None:
        raise UnsuitableValueError(f"{text_of(value, 'a timestamp')} cannot be held by this engine")
    date, time, fraction = match.groups()
    return f"{date} {time}.{(fraction or ''):0<6}"


def sqlite_own_timestamp(value: str) -> str:
    """Return a timestamp in the form of another SQLite database, with all digits."""
    return value.replace("T", " ", 1)


def sqlite_own_timestamptz(value: str) -> str:
    """Return a timestamp with time zone in the form of another SQLite database, without the capture's Z."""
    return sqlite_own_timestamp(value.removesuffix("Z"))


def time_text(value: str) -> str:
    """Return ``10:11:12.123456``."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise UnsuitableValueError(f"{text_of(value, 'a time')} cannot be held by this engine")
    return f"{match[1]}.{(match[2] or ''):0<6}"


def date_text(value: str) -> str:
    """Return ``2026-11-21``."""
    if _DATE.fullmatch(value) is None:
        raise UnsuitableValueError(f"{text_of(value, 'a date')} cannot be held by this engine")
    return value


def type_length(column_type: str) -> int | None:
    """Return the length in the name of a type, for example 32 in ``char(32)``, or None."""
    match = re.search(r"\((\d+)\)", column_type)
    return int(match[1]) if match else None


_COMMON: dict[str, Converter] = {
    "boolean": int,
    "bytes": decode_base64,
    "array": array_text,
    "timestamp": timestamp_text,
    "timestamptz": timestamp_text,
    "date": date_text,
}


def common_converter(portable: PortableType, column_type: str) -> Converter | None:
    """Return the common converter of SQLite and MariaDB, or None if the JSON value is the stored value."""
    if is_hex_uuid(portable, column_type):
        return hex_uuid
    return _COMMON.get(portable.name)
