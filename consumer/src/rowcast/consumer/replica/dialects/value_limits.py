"""Describe the values of sources that a replica's engine cannot hold.

Each dialect has a table of limits. The worker refuses the values, and ``rowcast check`` warns of the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from rowcast.shared.tables.shape import ColumnShape
from rowcast.shared.tables.type_mapping import NativeType, engine_family, portable_type


@dataclass(frozen=True, slots=True)
class PlannedColumn:
    """A source's column, and the type that the worker gives the column on the replica."""

    shape: ColumnShape
    type: TypeEngine[Any]
    dialect: Dialect
    is_key: bool
    """Whether the column belongs to a primary, unique or foreign key."""

    @property
    def portable_name(self) -> str:
        """Return the portable type on the replica. Return "" for a type of the engine, because it holds every value."""
        return "" if isinstance(self.type, NativeType) else portable_type(self.type, self.dialect).name

    @property
    def ddl(self) -> str:
        """Return the type as the engine writes it."""
        return self.type.compile(dialect=self.dialect)


@dataclass(frozen=True, slots=True)
class ValueLimit:
    """A kind of values that an engine cannot hold.

    ``values`` is a description for messages. ``types`` are the portable types concerned, ``sources`` the engines
    (empty: every engine). ``condition`` decides by the column, if given.
    """

    values: str
    types: frozenset[str]
    sources: frozenset[str] = frozenset()
    condition: Callable[[PlannedColumn], bool] | None = None

    def applies_to(self, source_engine: str, column: PlannedColumn) -> bool:
        """Return whether the limit concerns a column of a source on this engine."""
        if column.shape.type.name not in self.types:
            return False
        if self.sources and engine_family(source_engine) not in self.sources:
            return False
        return self.condition is None or self.condition(column)


def is_decimal_column(column: PlannedColumn) -> bool:
    """Return whether the replica stores the column as a decimal. A text or an untyped column holds everything."""
    return column.portable_name == "decimal"


FLOATS = frozenset(("float32", "float64"))
DATES = frozenset(("date", "timestamp", "timestamptz"))
TEXTS = frozenset(("string", "char", "text", "enum", "native"))

_POSTGRESQL = frozenset(("postgresql",))
_MYSQL = frozenset(("mysql",))

NO_NAN = ValueLimit("NaN", FLOATS, _POSTGRESQL)
NO_DECIMAL_NAN = ValueLimit("NaN", frozenset(("decimal",)), _POSTGRESQL, is_decimal_column)
NO_DISTANT_DATES = ValueLimit("infinity, and years before 1 or after 9999", DATES, _POSTGRESQL)
NO_ZERO_DATES = ValueLimit("dates whose month or day is 0", DATES, _MYSQL)
NO_LONG_TIMES = ValueLimit("times below 0, or of 24 hours and more", frozenset(("time",)), _MYSQL)
NO_MIDNIGHT_AS_24 = ValueLimit("24:00:00", frozenset(("time",)), _POSTGRESQL)
