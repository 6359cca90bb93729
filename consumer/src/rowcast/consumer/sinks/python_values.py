"""Convert the contract's encodings to Python's values. docs/reference/types.md lists both."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.sinks.sink import RowChange
from rowcast.shared.tables.shape import PortableType

_Convert = Callable[[Any], Any]


def _or_text(convert: _Convert) -> _Convert:
    """Return the text itself for a value beyond Python's types, for example a year after 9999."""

    def converted(value: Any) -> Any:
        try:
            return convert(value)
        except (ValueError, ArithmeticError):
            return value

    return converted


def _boolean(value: Any) -> Any:
    return value if value not in (0, 1) else bool(value)


_CONVERTERS: Mapping[str, _Convert] = {
    "boolean": _boolean,
    "float32": float,
    "float64": float,
    "decimal": _or_text(Decimal),
    "bytes": lambda value: base64.b64decode(value, validate=True),
    "date": _or_text(date.fromisoformat),
    "time": _or_text(time.fromisoformat),
    "timestamp": _or_text(datetime.fromisoformat),
    "timestamptz": _or_text(datetime.fromisoformat),
    "uuid": _or_text(UUID),
    "json": _or_text(orjson.loads),
}


def _converter(portable: PortableType) -> _Convert | None:
    if portable.name != "array":
        return _CONVERTERS.get(portable.name)
    items = None if portable.items is None or portable.items.name == "bytes" else _converter(portable.items)
    return None if items is None else lambda value: _items(value, items)


def _items(value: Any, convert: _Convert) -> Any:
    if isinstance(value, list):
        return [_items(item, convert) for item in value]
    return None if value is None else convert(value)


class RowConverter:
    """Convert changes. The converters of each layout are found once."""

    def __init__(self) -> None:
        self._by_layout: dict[RowLayout, dict[str, _Convert]] = {}

    def __call__(self, change: Change) -> RowChange:
        """Return a change with Python's values."""
        layout = change.layout
        if change.is_truncate:
            return RowChange(layout.table, {}, None, truncates=True)
        converters = self._by_layout.get(layout)
        if converters is None:
            found = ((c.name, _converter(c.type)) for c in layout.shape.columns)
            converters = self._by_layout[layout] = {name: one for name, one in found if one is not None}
        row = None if change.after is None else _converted(change.after, converters)
        return RowChange(layout.table, _converted(change.key, converters), row)


def _converted(document: bytes, converters: Mapping[str, _Convert]) -> dict[str, Any]:
    row: dict[str, Any] = orjson.loads(document)
    for name, convert in converters.items():
        value = row.get(name)
        if value is not None:
            row[name] = convert(value)
    return row
