"""From the contract's encodings to the values that SQLAlchemy's generic types store on SQLite and MariaDB.

A converter takes a JSON value that is not null. It raises ValueError for what the engine cannot hold: nothing becomes
NULL, or another value, in silence.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from rowcast.shared.shapes import PortableType
from rowcast.shared.types import SQLITE_DIGITS

Converter = Callable[[Any], Any]

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?Z?")
_TIME = re.compile(r"((?:[01]\d|2[0-3]):\d\d:\d\d)(?:\.(\d{1,6}))?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_DECIMAL = re.compile(r"-?(\d+)\.?(\d*)", re.ASCII)
_NUMBER = re.compile(r"-?(\d+(\.\d+)?([eE][-+]?\d+)?|Infinity)", re.ASCII)
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_MOST_INT64_CHARACTERS = 20
# A text of fifteen digits and so few zeros before or behind them is far from the ends of what a float reaches.
_SHORT = 300


class RowReader:
    """Makes a statement's parameters from images or keys: the named members, in order, each converted."""

    def __init__(self, members: Sequence[tuple[str, Converter | None]]) -> None:
        self._members = tuple(members)

    def rows(self, documents: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        """Raises ValueError, naming the column, for a value that the engine cannot hold."""
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
                raise ValueError(f"column {name}: {error}") from error
            yield tuple(values)


def decoded_bytes(value: str) -> bytes:
    return base64.b64decode(value, validate=True)


def document_text(value: Any) -> str:
    """An array, as the JSON text that stands for it where there are no arrays."""
    return orjson.dumps(value).decode()


def is_plain_uuid(portable: PortableType, stored: str) -> bool:
    """Whether a UUID is stored as SQLAlchemy's Uuid does where there is no such type."""
    return portable.name == "uuid" and stored.startswith(("char", "varchar")) and characters(stored) == 32


def plain_uuid(value: str) -> str:
    """32 hex digits, which is what SQLAlchemy's Uuid stores in a CHAR(32)."""
    return value.replace("-", "")


def finite(value: Any) -> Any:
    """A number of an engine that has neither NaN nor infinities."""
    if isinstance(value, str) and value[-1:] in ("N", "y"):
        raise ValueError(f"{value} cannot be held by this engine")
    return value


def scaled(scale: int) -> Converter:
    """A finite decimal that has no more than ``scale`` digits after the point: the engine would round it in silence."""

    def fits(value: Any) -> Any:
        fraction = str(finite(value)).partition(".")[2]
        if len(fraction) > scale and fraction.rstrip("0")[scale:]:
            raise ValueError(f"{value} has more than {scale} digits after the point, which this column would round")
        return value

    return fits


def unpadded(value: str) -> str:
    """A char without the spaces that only fill it."""
    return value.rstrip(" ")


def no_longer_than(characters: int) -> Converter:
    """A text of at most so many characters: the engine would cut spaces off the end of a longer one in silence."""

    def fits(value: Any) -> Any:
        if len(value) > characters:
            raise ValueError(f"a text of {len(value)} characters does not fit: the column takes {characters}")
        return value

    return fits


def sqlite_float(value: Any) -> Any:
    """SQLite holds infinities but would store NaN as NULL."""
    if value == "NaN":
        raise ValueError("NaN cannot be held by this engine")
    return float(value)


def sqlite_number(value: Any) -> int | float | str:
    """A decimal, or a whole number without a sign: as a number if SQLite holds it exactly, else as its text."""
    text = str(value)
    if (number := _whole(text)) is not None:
        return number
    match = _DECIMAL.fullmatch(text)
    if match is None:
        return text
    digits = (match[1] + match[2]).strip("0")
    return float(text) if len(digits) <= SQLITE_DIGITS and len(text) < _SHORT else text


def sqlite_exact_number(value: Any) -> int | float:
    """As ``sqlite_number``, for a column that would make a number of the text, and so round it."""
    number = sqlite_number(value)
    if isinstance(number, str):
        raise ValueError(f"{value} cannot be held exactly by this engine's numbers. Give the column no type, or TEXT")
    return number


def sqlite_own_number(value: Any) -> int | float | str:
    """What SQLite itself held as a number, whatever digits it takes to write it."""
    text = str(value)
    if (number := _whole(text)) is not None:
        return number
    return float(text) if _NUMBER.fullmatch(text) else text


def _whole(text: str) -> int | None:
    """A whole number of 64 bits with a sign, with zeros behind the point or without."""
    whole, _, fraction = text.partition(".")
    if fraction.strip("0") or not whole.lstrip("-").isdecimal() or len(whole) > _MOST_INT64_CHARACTERS:
        return None
    number = int(whole)
    return number if _INT64_MIN <= number <= _INT64_MAX else None


def timestamp(value: str) -> str:
    """``2026-11-21 10:11:12.123456``, in UTC where the source had a zone."""
    match = _TIMESTAMP.fullmatch(value)
    if match is None:
        raise ValueError(f"timestamp {value!r} cannot be held by this engine")
    date, time, fraction = match.groups()
    return f"{date} {time}.{(fraction or ''):0<6}"


def spaced(value: str) -> str:
    """A timestamp of SQLite as it stood there, with as many digits as it had."""
    return value.replace("T", " ", 1)


def spaced_utc(value: str) -> str:
    """The same, where the capture has added that it is UTC."""
    return spaced(value.removesuffix("Z"))


def time_of_day(value: str) -> str:
    """``10:11:12.123456``."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise ValueError(f"time {value!r} cannot be held by this engine")
    return f"{match[1]}.{(match[2] or ''):0<6}"


def date(value: str) -> str:
    """``2026-11-21``."""
    if _DATE.fullmatch(value) is None:
        raise ValueError(f"date {value!r} cannot be held by this engine")
    return value


def characters(stored: str) -> int | None:
    """The length in a type's name: 32 in ``char(32)``."""
    match = re.search(r"\((\d+)\)", stored)
    return int(match[1]) if match else None


def common_converter(portable: PortableType, stored: str) -> Converter | None:
    """What SQLite and MariaDB have alike; None: the JSON value is the stored value."""
    match portable.name:
        case "boolean":
            return int
        case "bytes":
            return decoded_bytes
        case "array":
            return document_text
        case "uuid" if is_plain_uuid(portable, stored):
            return plain_uuid
        case "timestamp" | "timestamptz":
            return timestamp
        case "date":
            return date
    return None
