"""The lines of an outbox row as SQL expressions, for the drain and for triggers alike.

``{"t":"schema.table","v":"<shape version>","op":"c|u|d","k":{key},"a":{row}}`` and a line feed; ``d`` has no ``a``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement

from rowcast.producer.tables import CapturedTable
from rowcast.shared.images import Concatenation, RowImage

Values = Callable[[sa.Column[Any]], ColumnElement[Any]]
"""Where a row's values come from: of a column of the table, the expression that has its value."""


def stored(column: sa.Column[Any]) -> ColumnElement[Any]:
    """The row of the table itself."""
    return column


def row_line(table: CapturedTable, op: str, values: Values = stored) -> ColumnElement[str]:
    """A row that is there: ``op`` is ``c`` or ``u``."""
    image = RowImage([(str(c.name), values(c), table.types[str(c.name)]) for c in table.table.columns])
    return Concatenation(_prefix(table, op), _key_image(table, values), ',"a":', image, "}\n")


def gone_line(table: CapturedTable, values: Values = stored) -> ColumnElement[str]:
    """A row that is gone; only the key's values are asked for."""
    return Concatenation(_prefix(table, "d"), _key_image(table, values), "}\n")


def _prefix(table: CapturedTable, op: str) -> str:
    return f'{{"t":{orjson.dumps(table.full_name).decode()},"v":"{table.version}","op":"{op}","k":'


def _key_image(table: CapturedTable, values: Values) -> RowImage:
    return RowImage([(str(c.name), values(c), table.types[str(c.name)]) for c in table.key_columns])
