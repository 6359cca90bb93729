"""Keys of texts that a collation likens: on MariaDB and MySQL ``a`` finds the row of ``A``."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect

from rowcast.producer.tables import CapturedTable
from rowcast.shared.types import engine_family

_TEXTS = ("string", "char", "text", "enum")


def likened_columns(table: CapturedTable, dialect: Dialect) -> tuple[sa.Column[Any], ...]:
    """The key's columns whose values may be equal without being the same."""
    if engine_family(dialect.name) != "mysql":
        return ()
    return tuple(c for c in table.key_columns if table.types[str(c.name)].name in _TEXTS)


def exactly(table: CapturedTable, column: sa.Column[Any], value: ColumnElement[Any]) -> ColumnElement[bytes]:
    """A value of such a column for a comparison byte by byte; a char's padding is no part of it."""
    text: ColumnElement[Any] = sa.cast(value, mysql.CHAR(charset="utf8mb4"))
    if table.types[str(column.name)].name == "char":
        text = sa.func.rtrim(text)
    return sa.cast(text, sa.BINARY)
