"""Check that the values of events have the JSON types of their columns.

A database turns some wrong values into values of the column: an object becomes a text, a number becomes true. SQLite
keeps a text in a column of integers. The names and types of a row's values are the row's form. Each form is checked
once for each layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rowcast.shared.errors import DataError
from rowcast.shared.tables.json_types import is_loosely_typed, json_types
from rowcast.shared.tables.shape import TableShape

Form = tuple[str | type, ...]
"""The names of the values of a row or of a key, and their types."""


@dataclass(frozen=True, slots=True)
class KnownForms:
    """The forms that fit a layout. A key's form says nothing of a row, because a row must have all columns."""

    keys: set[Form] = field(default_factory=set)
    rows: set[Form] = field(default_factory=set)


_MAX_FORMS = 1_000
"""The forms of a layout to remember. A table with many columns that may be NULL has more forms than fit into memory."""

_NULL = frozenset((type(None),))
_FLOATS = frozenset(("float32", "float64"))
_FLOAT_TEXTS = frozenset(("NaN", "Infinity", "-Infinity"))

_NAMES = {bool: "a boolean", int: "an integer", float: "a number", str: "a text", list: "an array", dict: "an object"}


def fitting_types(shape: TableShape) -> dict[str, frozenset[type]]:
    """Return for each column the types whose values all fit, also NULL.

    The texts for some floating point numbers fit too, but each text must be compared.
    """
    return {
        column.name: (json_types(column.type, shape.engine) | _NULL) - _compared_types(column.type.name)
        for column in shape.columns
    }


def _compared_types(type_name: str) -> frozenset[type]:
    return frozenset((str,)) if type_name in _FLOATS else frozenset()


def require_types(shape: TableShape, forms: KnownForms, key: Mapping[str, Any], row: Mapping[str, Any] | None) -> None:
    """Raise DataError if a value of the key or of the row has another JSON type than its column.

    ``row``: the values of all columns. ``forms``: the known forms. The forms of key and row are added.
    """
    if not is_loosely_typed(shape.engine) and None in key.values():
        raise DataError(f"the key of {shape.full_name} holds NULL")
    _require(shape, key, forms.keys, "key")
    if row is not None:
        _require(shape, row, forms.rows, "row")


def _require(shape: TableShape, values: Mapping[str, Any], forms: set[Form], what: str) -> None:
    may_be_kept = True
    for name, value in values.items():
        type_ = shape.column(name).type
        if value is not None and type(value) not in json_types(type_, shape.engine):
            raise DataError(
                f"the {what} of {shape.full_name} does not fit its shape: column {name} ({type_.name}) holds "
                f"{_NAMES.get(type(value), 'another value')}"
            )
        if type_.name in _FLOATS and type(value) is str:
            # Each text must be compared, so the form is not kept.
            may_be_kept = False
            if value not in _FLOAT_TEXTS and not is_loosely_typed(shape.engine):
                raise DataError(f"the {what} of {shape.full_name} does not fit its shape: column {name} holds a text")
    if may_be_kept and len(forms) < _MAX_FORMS:
        forms.add((*values, *map(type, values.values())))
