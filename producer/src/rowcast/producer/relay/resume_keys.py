"""Where a snapshot goes on: the last key that was read, as the driver gave it, in JSON."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson

from rowcast.shared.errors import DataError

_MICROSECOND = timedelta(microseconds=1)

# By type, exactly: a datetime is a date too.
_FORMS: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    bytes: ("bytes", lambda v: base64.b64encode(v).decode(), base64.b64decode),
    float: ("float", float.hex, float.fromhex),
    Decimal: ("decimal", str, Decimal),
    datetime: ("datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("date", date.isoformat, date.fromisoformat),
    timedelta: ("microseconds", lambda v: v // _MICROSECOND, lambda v: v * _MICROSECOND),
}
_READ = {name: read for name, _, read in _FORMS.values()}


def key_to_json(values: Sequence[Any]) -> str:
    """Raises DataError for a value of a type that no driver gives for a key."""
    return orjson.dumps([_written(value) for value in values]).decode()


def key_from_json(text: str) -> list[Any]:
    """The values as they were."""
    return [_read(value) for value in orjson.loads(text)]


def _written(value: Any) -> Any:
    if value is None or type(value) in (int, str):
        return value
    if type(value) not in _FORMS:
        raise DataError(f"it cannot be resumed behind a key of type {type(value).__name__}")
    name, write, _ = _FORMS[type(value)]
    return {name: write(value)}


def _read(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((name, written),) = value.items()
    return _READ[name](written)
