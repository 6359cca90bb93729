"""The lines of an outbox row as SQL expressions, for the drain and for triggers alike.

``{"t":"schema.table","v":"<shape version>","op":"c|u|d","k":{key},"b":{old row},"a":{row}}`` and a line feed. ``d`` has
no ``a``; ``b`` is there only where the table asks for old rows and this one is known.

A line is empty text where nothing is to be told (a new row that the table's predicate leaves out): write nothing then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def row_line(
    table: CapturedTable, op: str, values: Values = stored, before: Values | None = None
) -> ColumnElement[str]:
    """A row that is there: ``op`` is ``c`` or ``u``. ``before``: the old row's values, written if the table asks for
    them."""
    return Concatenation(
        _prefix(table, op), _key_image(table, values), *_before(table, before), ',"a":', row_image(table, values), "}\n"
    )


def gone_line(table: CapturedTable, values: Values = stored, before: Values | None = None) -> ColumnElement[str]:
    """A row that is gone; of ``values`` only the key's are asked for. ``before``: as for ``row_line``."""
    return Concatenation(_prefix(table, "d"), _key_image(table, values), *_before(table, before), "}\n")


def row_image(table: CapturedTable, values: Values = stored) -> ColumnElement[str]:
    """The whole row as JSON text."""
    return RowImage([(str(c.name), values(c), table.types[str(c.name)]) for c in table.table.columns])


def _prefix(table: CapturedTable, op: str) -> str:
    return f'{{"t":{orjson.dumps(table.full_name).decode()},"v":"{table.version}","op":"{op}","k":'


def _key_image(table: CapturedTable, values: Values) -> RowImage:
    return RowImage([(str(c.name), values(c), table.types[str(c.name)]) for c in table.key_columns])


def _before(table: CapturedTable, values: Values | None) -> Sequence[str | ColumnElement[str]]:
    if values is None or not table.before:
        return ()
    return (',"b":', row_image(table, values))
