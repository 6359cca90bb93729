"""Express the condition of a statement with many parameter sets as few conditions without parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BindParameter, BooleanClauseList, ClauseElement
from sqlalchemy.sql.visitors import replacement_traverse

from rowcast.producer.database.row_locks import KEYS_PER_STATEMENT, has_key_in

_MAX_ALTERNATIVES = 50
"""The greatest number of conditions that are joined by OR. A condition may have any number of parts."""


def conditions(
    where: ColumnElement[bool] | None, sets: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[ColumnElement[bool] | None, Mapping[str, Any]]]:
    """Yield conditions that together choose the rows of ``where`` for any of the parameter sets.

    Each condition comes with parameters. An executemany would otherwise cost a query for each set.
    """
    if where is None or len(sets) == 1:
        # Every parameter set of a statement without a condition chooses all rows.
        yield where, sets[0]
        return
    equalities = _equalities(where)
    size = KEYS_PER_STATEMENT if equalities else _MAX_ALTERNATIVES
    for start in range(0, len(sets), size):
        part = sets[start : start + size]
        condition = _any_equal(equalities, part) if equalities else sa.or_(*(_with_values(where, p) for p in part))
        yield condition, {}


def _with_values(where: ColumnElement[bool], parameters: Mapping[str, Any]) -> ColumnElement[bool]:
    """Return the condition with the values of a parameter set in place of its parameters."""

    def replace(element: Any, **_: Any) -> BindParameter[Any] | None:
        if not isinstance(element, BindParameter) or element.key not in parameters:
            return None
        return sa.bindparam(None, parameters[element.key], type_=element.type, expanding=element.expanding)

    return replacement_traverse(where, {}, replace)


def _any_equal(
    equalities: Sequence[tuple[ColumnElement[Any], BindParameter[Any]]], sets: Sequence[Mapping[str, Any]]
) -> ColumnElement[bool]:
    columns = [column for column, _ in equalities]
    binds = [(bind.key, bind) for _, bind in equalities]
    values = [tuple([p.get(name, bind.effective_value) for name, bind in binds]) for p in sets]
    parts = [has_key_in([column], [(row[i],) for row in values]) for i, column in enumerate(columns)]
    if len(columns) > 1:
        # MariaDB finds no index by the comparison of tuples. The comparisons of the columns stay for the index.
        parts.append(has_key_in(columns, values))
    return sa.and_(*parts)


def _equalities(where: ClauseElement) -> list[tuple[ColumnElement[Any], BindParameter[Any]]]:
    """Return the columns and parameters of a condition that only compares columns with parameters, else nothing."""
    found: list[tuple[ColumnElement[Any], BindParameter[Any]]] = []
    for part in conjuncts(where):
        column, value = getattr(part, "left", None), getattr(part, "right", None)
        if (
            getattr(part, "operator", None) is not operators.eq
            or not isinstance(column, sa.ColumnClause)
            or not isinstance(value, BindParameter)
            or value.expanding
            # Values are sent with the type of the column.
            or value.type is not column.type
        ):
            return []
        found.append((column, value))
    return found


def conjuncts(where: ClauseElement | None) -> Iterable[ClauseElement]:
    """Yield the conditions that AND joins."""
    if where is None:
        return
    if isinstance(where, BooleanClauseList) and where.operator is operators.and_:
        for clause in where.clauses:
            yield from conjuncts(clause)
    else:
        yield where
