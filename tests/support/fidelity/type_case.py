"""Describe a column by its type and the values to try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

Expression = Callable[[sa.BindParameter[Any], sa.types.TypeEngine[Any]], sa.ColumnElement[Any]]
"""Build the SQL expression that writes a parameter into a column."""


@dataclass(frozen=True)
class Kind:
    """Describe a column.

    ``means`` names the meaning of the values on every engine, a key of ``MEANINGS``. ``values`` generates values for
    the column's type, or texts for ``write``. ``edges`` and NULL are always among the values.
    """

    name: str
    type_: Any
    means: str
    values: st.SearchStrategy[Any]
    edges: Sequence[Any] = ()
    write: Expression | None = None
    column: dict[str, Any] = field(default_factory=dict)
    """More keyword arguments of ``sa.Column``."""

    def some(self, count: int, number: int) -> list[Any]:
        """Return ``count`` values: the edges, NULL, and random values of seed ``number``."""
        chosen = [None, *self.edges, *_examples(self.values, max(count - len(self.edges) - 1, 1), number)]
        # A type with few values, for example a boolean, repeats values.
        return [chosen[i % len(chosen)] for i in range(count)]


# Hypothesis takes a millisecond for each example, however many values the example has.
_VALUES_PER_EXAMPLE = 10


def _examples(strategy: st.SearchStrategy[Any], count: int, number: int) -> list[Any]:
    found: list[Any] = []

    @seed(number)
    @settings(
        max_examples=-(-count // _VALUES_PER_EXAMPLE),
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(strategy, min_size=_VALUES_PER_EXAMPLE, max_size=_VALUES_PER_EXAMPLE))
    def collect(values: list[Any]) -> None:
        found.extend(values)

    collect()
    return found[:count]


class Family:
    """Hold the kinds in one table. ``everywhere``: every engine holds all values of the kinds."""

    def __init__(self, name: str, kinds: Sequence[Kind], *, everywhere: bool = True) -> None:
        self.name = name if everywhere else f"alone_{name}"
        self.kinds = tuple(kinds)
        self._rows: dict[tuple[int, int], list[dict[str, Any]]] = {}

    def table(self, metadata: sa.MetaData) -> sa.Table:
        """Return the family's table, with a key and a column for each kind."""
        return sa.Table(
            self.name,
            metadata,
            sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
            *(sa.Column(kind.name, kind.type_, **kind.column) for kind in self.kinds),
        )

    def parameters(self) -> dict[str, sa.ColumnElement[Any]]:
        """Return the expressions for writing columns, for ``values()``."""
        return {
            kind.name: kind.write(sa.bindparam(f"v_{kind.name}", type_=sa.Text()), kind.type_)
            for kind in self.kinds
            if kind.write is not None
        }

    def rows(self, count: int, number: int) -> list[dict[str, Any]]:
        """Return random rows without ids, as parameters of a statement with the expressions of ``parameters``.

        The same arguments give the same rows. They are drawn once, because Hypothesis is slow and tests of several
        engines write them.
        """
        if (count, number) not in self._rows:
            self._rows[count, number] = self._drawn(count, number)
        return self._rows[count, number]

    def _drawn(self, count: int, number: int) -> list[dict[str, Any]]:
        columns = {
            kind.name if kind.write is None else f"v_{kind.name}": kind.some(count, number * 1_000 + i)
            for i, kind in enumerate(self.kinds)
        }
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def cast(parameter: sa.BindParameter[Any], type_: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
    """Write the text through the engine's own input function."""
    return sa.cast(parameter, type_)


def as_text(parameter: sa.BindParameter[Any], _type: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
    """Write the text to an engine that converts texts by itself."""
    return parameter
