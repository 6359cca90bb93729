"""Read a table in the order of its primary key, page by page, on every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import mysql

from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import ColumnShape

_MYSQL = ("mysql", "mariadb")


class KeyOrder:
    """The order of a table's rows by the columns of the primary key.

    ``engine``: SQLAlchemy's name of the engine. ``columns``: the key's columns with their expressions. ``by``: the
    plain columns for ORDER BY, because an index can sort by plain columns. ``last``: the expressions to select. The
    next page begins after the row with the values of ``last``.
    """

    def __init__(self, engine: str, columns: Sequence[tuple[ColumnShape, ColumnElement[Any]]]) -> None:
        # MariaDB and MySQL read a whole table for (a, b) > (x, y), so both get the comparison written out.
        self._compares_tuples = engine not in _MYSQL
        self._compared = [_compared_key(engine, column, stored) for column, stored in columns]
        self.by = [stored for _, stored in columns]
        self.last = [
            _selected_key(engine, column, key) for (column, _), key in zip(columns, self._compared, strict=True)
        ]

    def after(self, values: Sequence[Any]) -> ColumnElement[bool]:
        """Return the condition for rows after the row with the values of ``last``."""
        return self._beyond(self._parameters(values))

    def up_to(self, values: Sequence[Any]) -> ColumnElement[bool]:
        """Return the condition for the row with the values of ``last``, and all rows before."""
        last = self._parameters(values)
        key = self._compared
        if len(key) == 1:
            return key[0] <= last[0]
        if self._compares_tuples:
            return sa.tuple_(*key) <= sa.tuple_(*last)
        return sa.and_(key[0] <= last[0], sa.or_(*self._alternatives(last, below=True)))

    def _beyond(self, last: Sequence[ColumnElement[Any]]) -> ColumnElement[bool]:
        key = self._compared
        if len(key) == 1:
            return key[0] > last[0]
        if self._compares_tuples:
            return sa.tuple_(*key) > sa.tuple_(*last)
        return sa.and_(key[0] >= last[0], sa.or_(*self._alternatives(last, below=False)))

    def _alternatives(self, last: Sequence[ColumnElement[Any]], *, below: bool) -> list[ColumnElement[bool]]:
        """Return a condition for each column that may be the first to differ. ``below`` includes the equal key."""
        key, alternatives = self._compared, []
        for i, (column, value) in enumerate(zip(key, last, strict=True)):
            equal = [c == v for c, v in zip(key[:i], last[:i], strict=True)]
            if below:
                compared = column <= value if i == len(key) - 1 else column < value
            else:
                compared = column > value
            alternatives.append(sa.and_(*equal, compared))
        return alternatives

    def _parameters(self, values: Sequence[Any]) -> list[ColumnElement[Any]]:
        """Return parameters without a type, because a parameter takes the type of the column.

        Raise DataError for an invalid key.
        """
        if len(values) != len(self._compared):
            raise DataError("the primary key of the table has changed since the reading began")
        return [sa.bindparam(None, value, type_=sa.types.NullType()) for value in values]


def _compared_key(engine: str, column: ColumnShape, stored: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the expression to compare a key column in the order of the index."""
    if engine not in _MYSQL:
        return stored
    native = column.type.native.upper()
    if column.type.name == "enum" or native.startswith(("ENUM", "SET", "BIT")):
        # ENUM, SET and BIT sort by number and compare as text.
        return sa.cast(stored, mysql.INTEGER(unsigned=True))
    # A FLOAT is written with 6 digits.
    return sa.cast(stored, sa.Double()) if column.type.name == "float32" else stored


def _selected_key(engine: str, column: ColumnShape, key: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the expression for the value to store, and to compare with the key later."""
    if engine == "postgresql":
        # Any type can be written as text, and the text is read back as the column's type.
        return sa.cast(key, sa.Text)
    if engine in _MYSQL and column.type.name == "time":
        # The driver reads negative times wrongly.
        return sa.cast(key, sa.CHAR)
    return key
