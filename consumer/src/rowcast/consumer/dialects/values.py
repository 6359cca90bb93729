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

Converter = Callable[[Any], Any]

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?Z?")
_TIME = re.compile(r"(\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_INT64_MAX = 2**63 - 1


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


def plain_uuid(value: str) -> str:
    """32 hex digits, which is what SQLAlchemy's Uuid stores in a CHAR(32)."""
    return value.replace("-", "")


def finite(value: Any) -> Any:
    """A number of an engine that has neither NaN nor infinities."""
    if isinstance(value, str) and value[-1:] in ("N", "y"):
        raise ValueError(f"{value} cannot be held by this engine")
    return value


def sqlite_number(value: Any) -> Any:
    """SQLite holds infinities but would store NaN as NULL, and integers of more than 64 bits not exactly."""
    if isinstance(value, str):
        if value == "NaN":
            raise ValueError("NaN cannot be held by this engine")
        return float(value) if value[-1:] == "y" else value
    return sqlite_integer(value)


def sqlite_integer(value: Any) -> Any:
    if isinstance(value, int) and value > _INT64_MAX:
        raise ValueError(f"{value} has more than 64 bits with a sign, which is what this engine's integers have")
    return value


def timestamp(value: str) -> str:
    """``2026-11-21 10:11:12.123456``, in UTC where the source had a zone."""
    match = _TIMESTAMP.fullmatch(value)
    if match is None:
        raise ValueError(f"timestamp {value!r} cannot be held by this engine")
    date, time, fraction = match.groups()
    return f"{date} {time}.{(fraction or ''):0<6}"


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
        case "uuid" if stored.startswith(("char", "varchar")) and characters(stored) == 32:
            return plain_uuid
        case "timestamp" | "timestamptz":
            return timestamp
        case "date":
            return date
    return None
