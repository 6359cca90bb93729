"""Find the columns of a replica's table that cannot hold every value of the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from rowcast.consumer.replica.dialects import ReplicaColumn, ReplicaDialect
from rowcast.consumer.replica.dialects.capacities import Capacity, Numbers, holds
from rowcast.consumer.replica.dialects.needed_capacities import needed_capacity
from rowcast.consumer.replica.evolution.shape_changes import TableRebuildError
from rowcast.consumer.replica.table_definitions import planned_columns
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import TableShape


@dataclass(frozen=True, slots=True)
class Misfit:
    """A column narrower than the source's.

    ``wider``: a type for the values of both source and replica, or None if no type is known. ``is_checked``: the engine
    refuses each oversized value, so a column may stay if all values fit.
    """

    column: ReplicaColumn
    planned: str
    wider: str | None
    is_checked: bool = False


def misfits(
    shape: TableShape, columns: Mapping[str, ReplicaColumn], replica: ReplicaDialect, dialect: Dialect
) -> Iterator[Misfit]:
    """Return the columns of a replica's table that cannot hold every value of the shape's columns."""
    for wanted, planned in zip(shape.columns, planned_columns(shape, replica, dialect), strict=True):
        column = columns.get(wanted.name)
        if column is None or column.generated:
            continue
        actual = replica.capacity(column.stored or column.type)
        ddl = planned.type.compile(dialect=dialect)
        planned_capacity = replica.capacity(ddl)
        needed = needed_capacity(wanted.type, shape.engine, checks_values=replica.checks_values)
        candidates = (needed, planned_capacity)
        known = [capacity for capacity in candidates if capacity is not None]
        if actual is None or not known or any(holds(actual, capacity) for capacity in known):
            continue
        is_checked = replica.refuses_large_integers and all(map(_is_integer, (actual, *known)))
        yield Misfit(column, ddl, _wider_type(actual, planned_capacity, planned.type, dialect), is_checked)


def _is_integer(capacity: Capacity) -> bool:
    return isinstance(capacity, Numbers) and capacity.scale == 0


def _wider_type(actual: Capacity, planned: Capacity | None, type_: TypeEngine[Any], dialect: Dialect) -> str | None:
    """Return a type for all values of the present column and of the planned type."""
    if planned is None:
        return None
    if holds(planned, actual):
        return type_.compile(dialect=dialect)
    if isinstance(actual, Numbers) and isinstance(planned, Numbers) and inf not in (actual.scale, planned.scale):
        digits = max(len(str(int(capacity.high) - 1)) for capacity in (actual, planned))
        scale = max(actual.scale, planned.scale)
        if scale > 0 and actual.low < 0:
            return sa.Numeric(digits + int(scale), int(scale)).compile(dialect=dialect)
    return None


def kept_column(shape: TableShape, table: str, misfit: Misfit, statement: str | None) -> str:
    """Return the warning about a column of the user's that stays although the source may have larger values."""
    return (
        f"column {misfit.column.name} of the replica's table {table} is {misfit.column.type}, which is narrower than "
        f"the source's column in {shape.full_name} ({misfit.planned}). The worker stops at the first value that does "
        f"not fit. To widen the column, run: {statement}"
    )


class NarrowColumnError(TableRebuildError, ConfigurationError):
    """A column of the replica is narrower than the source's column, and the worker does not widen the column."""


def narrow_column(
    shape: TableShape, table: str, misfit: Misfit, statement: str | None, reason: str = ""
) -> NarrowColumnError:
    """Return the error for a column that the worker does not widen.

    ``statement`` would widen the column. ``reason``: why the statement has failed.
    """
    why = f" The worker could not change the column: {reason}." if reason else ""
    step = f"Run: {statement}" if statement else f"Create the table again with {misfit.planned or 'no type'} there"
    return NarrowColumnError(
        f"column {misfit.column.name} of the replica's table {table} is {misfit.column.type}, which is narrower than "
        f"the source's column in {shape.full_name} ({misfit.planned}): values would be rounded, cut or refused.{why} "
        f"{step}, and start the worker again.",
        [shape.full_name],
    )
