"""A column of a type, and the values to try in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

Expression = Callable[[sa.BindParameter[Any], sa.types.TypeEngine[Any]], sa.ColumnElement[Any]]
"""What is written into the column for a parameter."""


@dataclass(frozen=True)
class Kind:
    """``means`` names what its values mean, whatever engine holds them: see ``meanings``.

    ``values`` makes what is given to the column's own type, or to ``write``, which takes a text. ``edges`` are always
    among them, and so is NULL.
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
        """``count`` values: the edges, NULL, and random ones of seed ``number``."""
        chosen = [None, *self.edges, *_examples(self.values, max(count - len(self.edges) - 1, 1), number)]
        # A type of few values (a boolean) gives fewer than were asked for.
        return [chosen[i % len(chosen)] for i in range(count)]


# Hypothesis takes a millisecond for an example, and hardly longer for one of several values.
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
    """Kinds that share a table. ``everywhere``: every engine holds all of their values."""

    def __init__(self, name: str, kinds: Sequence[Kind], *, everywhere: bool = True) -> None:
        self.name = name if everywhere else f"alone_{name}"
        self.kinds = tuple(kinds)

    def table(self, metadata: sa.MetaData) -> sa.Table:
        """The family's table, with a key and a column for each kind."""
        return sa.Table(
            self.name,
            metadata,
            sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
            *(sa.Column(kind.name, kind.type_, **kind.column) for kind in self.kinds),
        )

    def parameters(self) -> dict[str, sa.ColumnElement[Any]]:
        """The columns that are written by an expression, for ``values()``."""
        return {
            kind.name: kind.write(sa.bindparam(f"v_{kind.name}", type_=sa.Text()), kind.type_)
            for kind in self.kinds
            if kind.write is not None
        }

    def rows(self, count: int, number: int) -> list[dict[str, Any]]:
        """Random rows, without their ids, as parameters of a statement that has ``parameters``."""
        columns = {
            kind.name if kind.write is None else f"v_{kind.name}": kind.some(count, number * 1_000 + i)
            for i, kind in enumerate(self.kinds)
        }
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def cast(parameter: sa.BindParameter[Any], type_: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
    """The text as the engine's own input function reads it."""
    return sa.cast(parameter, type_)


def as_text(parameter: sa.BindParameter[Any], _type: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
    """The text as an engine that converts by itself takes it."""
    return parameter
