"""Evaluate the condition of a view over row images, in the three-valued logic of SQL.

The result is True, False, or None for unknown: a comparison with NULL is unknown. A row is taken if the result is True.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rowcast.consumer.views.comparable_values import ORDERED, Kind, kind_of, literal_of, reader_of
from rowcast.consumer.views.syntax import (
    Both,
    Column,
    Comparison,
    Condition,
    ConditionError,
    Either,
    IsIn,
    IsNull,
    Not,
    Operand,
    Value,
)
from rowcast.shared.errors import DataError

Row = Mapping[str, Any]
Truth = bool | None
Test = Callable[[Row], Truth]

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class ConditionColumn:
    """A column in the images of a layout.

    ``name``: the name in the images, or None if the images lack the column. ``type_name``: the portable type.
    ``missing``: the value of a column missing in the images.
    """

    name: str | None
    type_name: str
    missing: Any = None

    def value(self, row: Row) -> Any:
        """Return the JSON value in a row."""
        return self.missing if self.name is None else row[self.name]


def compile_condition(condition: Condition, columns: Mapping[str, ConditionColumn]) -> Test:
    """Return the function to evaluate a condition. ``columns``: every column in the condition.

    Raise ConditionError for a comparison that the types do not allow. The function raises DataError for a value beyond
    its column's type.
    """
    match condition:
        case Column(name):
            if kind_of(columns[name].type_name) != "boolean":
                raise ConditionError(f"column {name} is no boolean. Compare it with a value")
            return _reader(name, columns[name])
        case Comparison(left, sign, right):
            return _comparison(left, sign, right, columns)
        case IsIn(column, values):
            return _is_in(column, values, columns)
        case IsNull(column):
            value_of = columns[column.name].value
            return lambda row: value_of(row) is None
        case Not(inner):
            test = compile_condition(inner, columns)
            return lambda row: None if (truth := test(row)) is None else not truth
        case Both(conditions):
            return _joined([compile_condition(inner, columns) for inner in conditions], decisive=False)
        case Either(conditions):
            return _joined([compile_condition(inner, columns) for inner in conditions], decisive=True)


def _joined(tests: list[Test], *, decisive: bool) -> Test:
    """Return the test that ends with the first decisive truth.

    With an unknown truth, the result is decisive or unknown.
    """

    def test(row: Row) -> Truth:
        is_known = True
        for one in tests:
            truth = one(row)
            if truth is decisive:
                return decisive
            if truth is None:
                is_known = False
        return not decisive if is_known else None

    return test


def _comparison(left: Operand, sign: str, right: Operand, columns: Mapping[str, ConditionColumn]) -> Test:
    names = [operand.name for operand in (left, right) if isinstance(operand, Column)]
    kinds = {_kind(name, columns[name]) for name in names}
    # A float compares with a decimal by its exact binary value, and this result surprises people.
    if len(kinds) > 1:
        raise ConditionError(f"columns {' and '.join(names)} have types that do not compare")
    if sign not in ("=", "!=") and not kinds <= ORDERED:
        raise ConditionError(
            f"column {names[0]} ({columns[names[0]].type_name}) has no order that all engines share. Use = or in"
        )
    read_left, read_right = (_operand(operand, columns[names[0]], columns) for operand in (left, right))
    compare = _OPERATORS[sign]

    def test(row: Row) -> Truth:
        one, other = read_left(row), read_right(row)
        return None if one is None or other is None else compare(one, other)

    return test


def _is_in(column: Column, values: tuple[Value, ...], columns: Mapping[str, ConditionColumn]) -> Test:
    found = columns[column.name]
    _kind(column.name, found)
    literals = frozenset(literal_of(value, found.type_name) for value in values)
    read = _reader(column.name, found)
    return lambda row: None if (value := read(row)) is None else value in literals


def _kind(name: str, column: ConditionColumn) -> Kind:
    kind = kind_of(column.type_name)
    if kind is None:
        raise ConditionError(f"values of column {name} ({column.type_name}) do not compare. Only `is null` is possible")
    return kind


def _operand(operand: Operand, column: ConditionColumn, columns: Mapping[str, ConditionColumn]) -> Callable[[Row], Any]:
    """Return the function for the value of an operand. ``column``: the column beside a literal."""
    if isinstance(operand, Column):
        return _reader(operand.name, columns[operand.name])
    literal = literal_of(operand, column.type_name)
    return lambda _: literal


def _reader(name: str, column: ConditionColumn) -> Callable[[Row], Any]:
    """Return the function for the comparable value of a column, or None for NULL."""
    read, value_of = reader_of(column.type_name), column.value

    def value(row: Row) -> Any:
        found = value_of(row)
        try:
            return None if found is None else read(found)
        except ValueError:
            raise DataError(f"column {name} holds a value that is no {column.type_name}") from None

    return value
