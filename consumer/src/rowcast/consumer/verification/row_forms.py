"""Compare rows and keys by their canonical values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from rowcast.consumer.verification.canonical_values import canonical_form
from rowcast.shared.tables.shape import TableShape

CanonicalKey = tuple[Any, ...]


class RowForms:
    """The canonical forms of the columns of one table."""

    def __init__(self, shape: TableShape) -> None:
        self._forms = [(column.name, canonical_form(column.type)) for column in shape.columns]
        by_name = dict(self._forms)
        self._key = [(name, by_name[name]) for name in shape.primary_key]

    def hash_row(self, row: Mapping[str, Any]) -> int:
        """Return a hash of 64 bits, equal for equal rows within this process."""
        values = []
        # The loop runs a hundred thousand times a second.
        for name, form in self._forms:
            value = row[name]
            values.append(value if value is None or form is None else form(value))
        return hash(_text(values))

    def hash_key(self, key: CanonicalKey) -> int:
        """Return a hash of 64 bits, equal for equal keys within this process."""
        return hash(_text(key))

    def key(self, row: Mapping[str, Any]) -> CanonicalKey:
        """Return the canonical key of a row or of a key."""
        values = []
        for name, form in self._key:
            value = row[name]
            values.append(value if value is None or form is None else form(value))
        return tuple(values)

    def different_columns(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the columns whose values differ. A column that a row lacks counts as NULL."""
        different = []
        for name, form in self._forms:
            one, other = ours.get(name), theirs.get(name)
            if one != other or type(one) is not type(other):
                if form is not None and one is not None and other is not None:
                    one, other = form(one), form(other)
                if _text([one]) != _text([other]):
                    different.append(name)
        return tuple(different)


def _text(values: Any) -> bytes:
    try:
        return orjson.dumps(values)
    except orjson.JSONEncodeError:
        # A document may be nested more deeply than orjson allows.
        return json.dumps(values).encode()
