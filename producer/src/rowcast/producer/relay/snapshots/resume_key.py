"""Store the key after which a snapshot continues: the values from the driver, as JSON."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson

from rowcast.shared.errors import DataError

_MICROSECOND = timedelta(microseconds=1)

# Looked up by the exact type, because a datetime is also a date.
_FORMS: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    bytes: ("bytes", lambda v: base64.b64encode(v).decode(), base64.b64decode),
    float: ("float", float.hex, float.fromhex),
    Decimal: ("decimal", str, Decimal),
    datetime: ("datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("date", date.isoformat, date.fromisoformat),
    timedelta: ("microseconds", lambda v: v // _MICROSECOND, lambda v: v * _MICROSECOND),
}
_READERS = {name: read for name, _, read in _FORMS.values()}


def key_to_json(values: Sequence[Any]) -> str:
    """Return the key as JSON. Raises DataError for a value of a type that no driver returns for a key."""
    return orjson.dumps([_to_json_value(value) for value in values]).decode()


def key_from_json(text: str) -> list[Any]:
    """Return the values that ``key_to_json`` wrote."""
    return [_from_json_value(value) for value in orjson.loads(text)]


def _to_json_value(value: Any) -> Any:
    if value is None or type(value) in (int, str):
        return value
    if type(value) not in _FORMS:
        raise DataError(f"a snapshot cannot resume after a key of type {type(value).__name__}")
    name, write, _ = _FORMS[type(value)]
    return {name: write(value)}


def _from_json_value(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((name, written),) = value.items()
    return _READERS[name](written)
